"""Other libraries beside ours: what each runs, by the Python of its own environment."""
