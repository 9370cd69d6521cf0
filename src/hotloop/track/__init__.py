"""Trackers: where records go besides the run folder. Each optional package is imported in one file, when it is used."""
