"""Programs that play episodes by OpenAI's API, many at once: `ais bench agents`."""
