"""Engines: each samples trajectories its own way behind the protocol of `services.rollout.engine`."""
