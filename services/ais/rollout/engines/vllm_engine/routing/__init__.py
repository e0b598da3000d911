"""Which experts vLLM's routers chose: recorded in its workers, taken by the engine."""
