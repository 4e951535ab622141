"""Real Flower processes: SuperLinks, sites, simulations, and lines between them."""
