"""What corrections do at 16 to 16,384 tokens: to the gradient of a world that is solved exactly (`chain`,
`gradients`), and to batches of log-ratios (`rules`)."""
