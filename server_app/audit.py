"""The coordinator's own log of a run: who took part, what arrived, what was kept.

It has the form of a site's audit log, and both can be compared: what left a site is what arrived.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedstrata.protocol.audited import answer_fields, plain
from fedstrata.support.audit import AuditLog
from fedstrata.support.ed25519 import private_key
from fedstrata.support.errors import UserError
from server_app.sites.members import Member

logger = logging.getLogger("flwr")
VARIABLE = "FEDSTRATA_AUDIT_KEY"
FILE = "audit.jsonl"  # in the run's folder
MISSED = ("late", "refused", "absent", "unauthorized")  # in the record of a round, by site


class RunAudit:
    """The log of a run; without a log nothing is recorded, as in simulations.

    Parameters
    ----------
    log : AuditLog or None
        Where to.
    """

    def __init__(self, log: AuditLog | None = None) -> None:
        self.log = log
        self._members: dict[str, int] = {}  # those that the log has, with their nodes
        # What happens while sites join: the run's folder is made when enough have.
        self._before: list[tuple[str, dict[str, Any]]] | None = []

    @contextmanager
    def recorded(self, name: str, begun: Mapping[str, Any], plan: str) -> Iterator[None]:
        """Record that a run begins or goes on, what was noted before, and how the block ended.

        Parameters
        ----------
        name : str
            The run's.
        begun : mapping
            What is written down of it: experiment, configuration and so on.
        plan : str
            What the sites are sent, as JSON.
        """
        before, self._before = self._before or [], None
        self._append(
            "submitted",
            name=name,
            federation=begun.get("federation", ""),
            experiment=begun.get("experiment", ""),
            plan=_hash(plan.encode()),
        )
        for event, fields in before:
            self._append(event, **fields)
        try:
            yield
        except BaseException as error:
            self._append("failed", why=plain(f"{type(error).__name__}: {error}"))
            raise
        self._append("ended")

    def admitted(self, members: Iterable[Member]) -> None:
        """Record the sites that take part and are not in the log so far, under these nodes."""
        for member in members:
            if self._members.get(member.site) != member.node_id:
                self._members[member.site] = member.node_id
                self._append(
                    "admitted", site=member.site, task=plain(member.task), node=str(member.node_id)
                )

    def arrived(self, kind: str, number: int, sites: Sequence[str], reply: Message) -> None:
        """Record an answer as it came, before anything is judged or aggregated."""
        if self.log is None or not reply.has_content():
            return
        self._append(
            "arrived",
            run=str(reply.metadata.run_id),
            kind=kind,
            round=number,
            site=plain(", ".join(sites)),
            **answer_fields(reply),
        )

    def not_awaited(self, kind: str, number: int, sites: Sequence[str], why: str) -> None:
        """Record that the run stopped waiting for an answer; without sites, of a node without a name."""
        self._append("not awaited", kind=kind, round=number, site=plain(", ".join(sites)), why=why)

    def played(self, record: Mapping[str, Any], members: Iterable[Member]) -> None:
        """Record a round that is complete: who did not take part.

        Parameters
        ----------
        record : mapping
            The round's, as results.json has it.
        members : iterable of Member
            Who takes part now.
        """
        if self.log is None:
            return
        number = record["round"]
        self.admitted(members)
        for what in MISSED:
            for site, why in record[what].items():
                self._append(what, site=plain(site), round=number, why=plain(str(why)))

    def saved(self, record: Mapping[str, Any], folder: Path) -> None:
        """Record the checkpoint of a round; ``folder`` is the run's."""
        if self.log is None:
            return
        number = record["round"]
        path = folder / "checkpoints" / f"round-{number:06d}" / "state.safetensors"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._append(
            "checkpoint", round=number, participants=len(record["participants"]), state=digest
        )

    def _append(self, event: str, **fields: Any) -> None:
        if self.log is None:
            return
        if self._before is not None:
            self._before.append((event, fields))
            return
        try:
            self.log.append(event, **fields)
        except OSError as error:
            raise UserError(
                f"output-dir: the audit log {self.log.path} cannot be written: {error.strerror}; "
                "make room there and resume the run"
            ) from None


def find_audit(folder: Path, *, deployed: bool) -> RunAudit:
    """Return the audit log of the run in ``folder``: in a deployment, and where there is a key.

    The server's own environment names the key, never the run's configuration.

    Raises
    ------
    UserError
        The key that the environment names cannot be read.
    """
    key = os.environ.get(VARIABLE)
    if not deployed and not key:
        return RunAudit()
    log = AuditLog(folder / FILE, private_key(Path(key)) if key else None)
    signed = "signed" if key else f"not signed ({VARIABLE} is not set)"
    logger.info("audit log: %s, %s", log.path, signed)
    return RunAudit(log)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
