"""A masked diffusion policy trained by GRPO on quantised rollouts, in one process: `ais bench diffusion`."""
