"""The `vllm` engine: vLLM behind the engine protocol, with weights that change under running requests.

Read in this order: `precision` (what this host can compute), `arguments` (our settings in vLLM's terms), `engine` (the
asyncio side), `updates` (a new version: pause, load, probe, or back), `load` (queues and metrics); and inside vLLM's
worker processes: `worker_extension` (loads snapshots), `scoring` (the probe's log-probs).
"""
