"""One cell in one process: sample, score, step; now and then both policies are scored on held-out prompts."""
