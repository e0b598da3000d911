"""Whether alerts are silent over healthy runs."""
