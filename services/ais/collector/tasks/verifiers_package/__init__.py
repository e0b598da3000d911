"""Environments of the package `verifiers` (PyPI, 0.4), which is installed in a Python of its own."""
