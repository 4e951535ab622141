"""A run as it goes on, as a page of this machine."""
