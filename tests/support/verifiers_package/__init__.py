"""A stand-in for a Python that has the package `verifiers`."""
