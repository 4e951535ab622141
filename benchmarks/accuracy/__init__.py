"""The experiments on accuracy: which runs they need, and the tables made of them."""
