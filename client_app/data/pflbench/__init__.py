"""The data sets of the tables of personalised methods, from their original files."""
