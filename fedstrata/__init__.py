"""What the rooms of the federation share: the protocol, the painter of faces, and plain support."""
