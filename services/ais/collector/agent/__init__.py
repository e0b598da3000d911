"""`ais agent`: plays the collector's episodes on another machine, by programs that know OpenAI's API alone."""
