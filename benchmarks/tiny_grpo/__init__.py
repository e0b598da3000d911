"""GRPO on the demo's scale in one process, for studies that look into a step: `ais compare` trains whole cells."""
