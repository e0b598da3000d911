"""Which experts of a mixture read each token: what a replica records and the trainer replays."""
