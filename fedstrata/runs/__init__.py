"""Reads the folders of runs: results, progress, and what state each run is in."""
