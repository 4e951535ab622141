"""Simulations on one machine: the ServerApp in one process, the ClientApp in a few others.

Messages, apps and results are those of `flwr run`. There is no SuperLink and no Ray between them.
"""
