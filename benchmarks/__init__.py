"""Benchmarks: `python -m benchmarks.NAME`, or `ais bench NAME`. Each prints a table and ends with a line of JSON."""
