"""Runs beside each other: means over seeds, gains over alone, costs; read from results.json alone."""
