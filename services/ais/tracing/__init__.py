"""`ais trace`: where a group spent its time, from prompt to optimizer step."""
