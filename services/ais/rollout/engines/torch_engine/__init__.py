"""The `torch` engine: a lean batched sampler with continuous batching and real low-precision rounding.

Read in this order: `architecture` (what model), `weights` (verified and rounded), `linear` (the arithmetic), `cache`,
`decoder` (the forward pass), `sampling` (tokens from logits), `slots` (who is in the batch: pure), `batch` (one decode
step), `worker` (the thread), `engine` (the asyncio side). A GPU adds `matrix_units` (its products), `fused` (its decode
step, where there is Triton) and `graphs` (one launch a step).
"""
