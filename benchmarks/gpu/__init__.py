"""What only a GPU can show, in parts, each a process of its own: `benchmarks/gpu/run.sh` (docs/benchmarks.md)."""
