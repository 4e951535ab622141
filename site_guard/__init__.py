"""What a hospital runs beside its SuperNode: the site's rules around the app's code."""
