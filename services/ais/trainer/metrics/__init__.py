"""What the trainer tells Prometheus, by what it is about. Units are in the names; gauges describe the newest step."""

from ais.trainer.metrics.trainer import TrainerMetrics

__all__ = ["TrainerMetrics"]
