"""Training on the data of all sites in one place, to compare: simulations only."""
