"""How it is learnt: the round loop, the aggregators, the wire format, one file per method."""
