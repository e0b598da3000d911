"""Replicas for tests: real processes, stand-ins that are scripted, and what pushes weights to them."""
