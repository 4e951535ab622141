"""The data sets a site can hold, one file each."""
