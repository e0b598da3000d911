"""Mutated inputs at every border that reads bytes of others: `ais bench fuzz`."""
