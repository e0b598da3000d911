"""The live page of a run: a web server over the files of its directory, read-only. It knows no service."""
