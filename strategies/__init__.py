"""How it is server_state: the round loop, the aggregators, the wire format, one file per method."""
