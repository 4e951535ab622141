"""A small run of two sites, one of them behind its guard's filter, with the server's audit log."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consortium.audit import Comparison, compare
from fedstrata.support.audit import Line
from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.ed25519 import private_key
from tests.helpers.audited_site import AuditedSite
from tests.helpers.runs import PLAIN
from tests.loopback import LoopbackGrid, simulate

CLINIC, PRACTICE = 101, 102


@dataclass(frozen=True)
class Logs:
    """Both logs of a run, with the keys that signed them."""

    site: Path
    server: Path
    site_key: Ed25519PrivateKey
    server_key: Ed25519PrivateKey

    def copied(self, folder: Path) -> Logs:
        """Return copies that a test may change."""
        for path in (self.site, self.server):
            for name in (path.name, f"{path.name}.head"):
                target = folder / path.parent.name / name
                target.parent.mkdir(exist_ok=True, parents=True)
                shutil.copy(path.parent / name, target)
        site, server = (folder / p.parent.name / p.name for p in (self.site, self.server))
        return replace(self, site=site, server=server)

    def lines(self) -> tuple[list[Line], list[Line]]:
        """Return the lines of both logs, the site's first."""
        return read_and_verify(self.site).lines, read_and_verify(self.server).lines

    def compared(self) -> Comparison:
        """Return how both logs differ."""
        return compare(*self.lines())


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


def recorded_exchange(folder: Path) -> Logs:
    """Return both logs of a run of two rounds."""
    site = AuditedSite(folder / "site", CLINIC, "clinic", "gender")
    run = exchange(folder, site)
    keys = private_key(folder / "site" / "keys" / "audit.key"), private_key(folder / "server.key")
    return Logs(site.log.path, run / "audit.jsonl", *keys)
