"""What a hospital runs beside its SuperNode: it holds the rules of the site around the app's code."""
