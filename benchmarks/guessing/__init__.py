"""One game trained on twice, played by the collector's environment and by a program on OpenAI's client."""
