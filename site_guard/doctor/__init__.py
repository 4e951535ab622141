"""What hospitals stumble over before their first run, each found with the line that mends it."""
