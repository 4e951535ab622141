"""The methods, one file each, both halves on one page."""
