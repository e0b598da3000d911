"""What it costs a trainer and a replica to be observed, within one run: metrics, records and scrapes, and traces.

Blocks of the same work take turns: alone, where what observes is replaced by nothing; observed; observed with traces.
"""
