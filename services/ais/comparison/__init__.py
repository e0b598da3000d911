"""`ais compare`: corrections, number formats, tasks and seeds against each other, cell by cell.

It knows the services' parts as the launcher knows their processes: a cell in process is made of the trainer's learner,
the torch engine's batch and the collector's exercise; a cell as a system is an `ais run`.

Read in this order: `settings` and `grid` (what a cell is), `cell/` (training one), `records` (what is kept of it),
`drive` (all of them, over all cores), `results/` (what comes of it).
"""
