"""What the processes of a simulation have in common: imported once, and forked with all of it."""

from __future__ import annotations

import gc

import client_app.app
import client_app.cohort.node
import client_app.orders
import fedstrata.engine.grid
import fedstrata.engine.processes
import server_app.app
import server_app.run

__all__ = ["client_app", "fedstrata", "server_app"]

# Objects that the collector of a process moves are pages that it no longer shares with the others.
gc.collect()
gc.freeze()
