"""The server: compose the configuration, run the federation, keep checkpoints, write the report."""
