"""Engines: each samples trajectories its own way behind the protocol of `ais.rollout.engine`."""
