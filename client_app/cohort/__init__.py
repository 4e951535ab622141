"""Many sites on one node: opened, trained and answered for together."""
