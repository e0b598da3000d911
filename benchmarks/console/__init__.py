"""The console's page in a real browser, on a long run with a large fleet."""
