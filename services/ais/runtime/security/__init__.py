"""Who may call the services of a run, and how a caller proves who he is: docs/security.md."""
