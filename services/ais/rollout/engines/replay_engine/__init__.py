"""Emits recorded responses at a set pace, for load tests and for work on everything but the model. Computes nothing."""
