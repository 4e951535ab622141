"""What the consortium's operator runs: certificates, keys, registration, and runs that come back."""
