"""A small run of two sites, one of them behind its guard's filter, with the server's audit log."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.helpers.audited_site import AuditedSite
from tests.helpers.runs import PLAIN
from tests.loopback import LoopbackGrid, simulate

CLINIC, PRACTICE = 101, 102


def exchange(folder: Path, site: AuditedSite, *overrides: str) -> Path:
    """Run two rounds with ``site`` and another; return the run's folder. The log is signed."""
    key = Ed25519PrivateKey.generate()
    path = folder / "server.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    nodes = {
        node: {
            "site": name,
            "partition-id": node - CLINIC,
            "num-partitions": 2,
            "state-dir": str(folder / name / "state"),
            "cache-dir": str(folder / name / "cache"),
        }
        for node, name in ((CLINIC, "clinic"), (PRACTICE, "practice"))
    }
    grid = LoopbackGrid(nodes, {"output-dir": str(folder / "runs")}, site)
    with mock.patch.dict(os.environ, {"FEDSTRATA_AUDIT_KEY": str(path)}):
        simulate(
            folder / "runs",
            "faces",
            [*PLAIN, "data.tasks=[gender]", *overrides],
            grid=grid,
        )
    (run,) = (folder / "runs").iterdir()
    return run
