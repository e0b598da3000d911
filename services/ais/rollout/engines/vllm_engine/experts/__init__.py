"""Mixtures of experts in vLLM's worker processes.

`reload`: what vLLM leaves out when their weights change in a live engine. `fp8_cpu_kernel`: their products in FP8 on a
CPU, for which vLLM has no kernel.
"""
