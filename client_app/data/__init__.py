"""The data sets that a site can load: one module with a function ``load`` for each."""
