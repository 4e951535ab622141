"""What every room may use: errors, options, seeds, folders, durable writes."""
