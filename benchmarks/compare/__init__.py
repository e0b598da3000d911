"""Studies for `ais compare -c FILE`, and what makes the documents' tables of their recorded results."""
