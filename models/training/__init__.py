"""Training a network at one site: the loop, its data, its metrics."""
