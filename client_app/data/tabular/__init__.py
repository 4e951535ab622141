"""Tables: rows of numbers and categories from CSV or Parquet files."""
