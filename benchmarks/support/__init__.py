"""What several benchmarks share: figures and where they are recorded, memory, recordings, child processes."""
