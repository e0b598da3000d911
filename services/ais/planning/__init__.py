"""How large a run has to be: replicas, memory, links, Redis, and the time of a step, by arithmetic on measured rates.

Pure functions of numbers; nothing here reads a file or imports anything heavy.
"""
