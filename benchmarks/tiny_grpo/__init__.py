"""GRPO on the demo's scale in one process: the trainer's and the torch engine's own parts, without the services.

Read in this order: `experiment` (what a run is), `sampler`, `training` (the loop), `branches` (the losses compared).
"""
