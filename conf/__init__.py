"""Hydra configuration: one file per choice; experiments compose them."""
