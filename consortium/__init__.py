"""What the coordinator runs: certificates, keys, registration, and runs that come back."""
