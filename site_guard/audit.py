"""What the site's process writes to the audit log: each order, and what left in answer to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, Message

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.audited import MOST_NAME, answer_fields, order_fields, plain
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.support.audit import AuditLog
from fedstrata.support.ed25519 import private_key, public_keys
from fedstrata.support.errors import UserError
from site_guard.appio import Work
from site_guard.approvals import Request
from site_guard.settings import SiteSettings
from site_guard.signatures import key_fingerprint, require_signature

logger = logging.getLogger("flwr")


class Unrecorded(NotNow):
    """The audit log could not be written, so nothing may happen that it would have to name."""


class SiteAudit:
    """The audit log of one site.

    Parameters
    ----------
    settings : SiteSettings
        Where the log is, and its key.

    Raises
    ------
    UserError
        The key cannot be read.
    """

    def __init__(self, settings: SiteSettings) -> None:
        key = settings.audit.key
        self.keys = public_keys(settings.bundles.signed_by, "bundles.signed-by")
        self.log = AuditLog(settings.audit_log, private_key(Path(key)) if key else None)
        self.settings = settings

    def started(self) -> None:
        """Record that the site's process begins, and by which settings; say where the log is.

        Raises
        ------
        UserError
            The log cannot be written.
        """
        try:
            self.log.append(
                "start",
                site=self.settings.site,
                settings=settings_hash(self.settings),
                versions={name: version(name) for name in ("fedstrata", "flwr")},
            )
        except OSError as error:
            raise UserError(
                f"{self.log.path}: the audit log cannot be written: {error.strerror}; give it "
                "another place in site.yaml, audit: {log: /absolute/path.jsonl}"
            ) from None
        logger.info("audit log: %s", self.log.path)
        if self.log.key is None:
            logger.warning(
                "the audit log is not signed: whoever can write the file can change it unseen. Make "
                "a key with `fedstrata site keygen`, and name it in site.yaml, audit: {key: ...}"
            )

    def stopped(self) -> None:
        """Record that the site's process ends; only log it where that is not possible."""
        try:
            self.log.append("stop")
        except OSError as error:
            logger.error("%s: the audit log cannot be written: %s", self.log.path, error.strerror)

    def ordered(self, work: Work) -> None:
        """Record an order before anything is done about it; raise Unrecorded if that fails."""
        content = work.bundle.content
        self._record(
            "order",
            **order_fields(work.message),
            app=plain(f"{work.run.fab_id} {work.run.fab_version}"),
            bundle=hashlib.sha256(content).hexdigest(),
            signer=self._signer(work),
            plan=hashlib.sha256(_plan(work.message).encode()).hexdigest(),
            received=sum(len(array.data) for array in _arrays(work.message).values()),
            **_measured(work.message),
        )

    def send(self, work: Work, answer: Message) -> None:
        """Record what leaves, then let it leave; it is recorded too where it could not.

        Where nothing can be recorded, the reason alone leaves, and the server asks again later.
        """
        message, report = work.message, json.loads(str(answer.content[kinds.REPORT]["json"]))
        failure = work.failure or report["error"]
        event = "refused" if failure.startswith("refused") else "failed" if failure else "left"
        more: dict[str, Any] = {"why": plain(failure)} if failure else {"read": _read(report)}
        if tensors := _tensors(answer):
            more["tensors"] = tensors
        try:
            self._record(event, **order_fields(message), **more, **answer_fields(answer))
        except Unrecorded as error:
            number = order_fields(message)["round"]
            reason, work.failure = f"refused by the site: {error}", f"refused: {error}"
            answer = answers.failure(message, self.settings.site, number, reason, later=True)
        try:
            work.push(answer)
        except BaseException as error:
            self.dropped(message, f"the SuperNode did not take it: {type(error).__name__}")
            raise

    def dropped(self, message: Message, why: str) -> None:
        """Record that nothing left in answer to an order."""
        with contextlib.suppress(Unrecorded):
            self._record("not sent", **order_fields(message), why=plain(why))

    def decided(self, event: str, request: Request, **fields: str | int) -> None:
        """Record what a person of the site said about a run; raise UserError if that fails."""
        try:
            self.log.append(
                event,
                run=str(request.run),
                request=request.id,
                signer=request.signer,
                bundle=request.bundle,
                plan=request.plan_digest,
                start=request.start,
                **fields,
            )
        except OSError as error:
            raise UserError(
                f"{self.log.path}: the audit log cannot be written: {error.strerror}; nothing was "
                "decided"
            ) from None

    def _signer(self, work: Work) -> str:
        """Return the fingerprint of the key that signed the order's run, or "" for none of ours."""
        given = work.context.run_config.get("signature")
        # The plan is the server's: anything in it may be wrong, and then it is not signed.
        with contextlib.suppress(Refused, ValueError, TypeError, AttributeError, RecursionError):
            kind = work.message.metadata.message_type
            signed = require_signature(
                work.bundle.content, _plan(work.message), given, self.keys, kind
            )
            return key_fingerprint(signed.key) if signed else ""
        return ""

    def _record(self, event: str, **fields: Any) -> None:
        try:
            self.log.append(event, **fields)
        except OSError as error:
            logger.error("%s: the audit log cannot be written: %s", self.log.path, error.strerror)
            raise Unrecorded("this site's audit log cannot be written") from None


def settings_hash(settings: SiteSettings) -> str:
    """Return the SHA-256 of the settings, whatever comments and order the file has."""
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()


def _plan(message: Message) -> str:
    record = message.content.get(kinds.PLAN)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    return text if isinstance(text, str) else ""


def _measured(message: Message) -> dict[str, str]:
    """Return whose layers an order has measured here, where they are another site's."""
    record = message.content.get(kinds.ORDER)
    of = record.get("of", "") if isinstance(record, ConfigRecord) else ""
    return {"of": plain(str(of))[:MOST_NAME]} if of else {}


def _arrays(message: Message) -> Mapping[str, Any]:
    record = message.content.get(kinds.LAYERS)
    return record if isinstance(record, ArrayRecord) else {}


def _tensors(answer: Message) -> dict[str, int]:
    """Return how many tensors the layers of each group have; the answer filter wrote the headers."""
    counts = {}
    for group, array in _arrays(answer).items():
        end = 8 + int.from_bytes(array.data[:8], "little")
        counts[plain(str(group))[:MOST_NAME]] = len(json.loads(array.data[8:end]))
    return counts


def _read(report: dict[str, Any]) -> dict[str, int]:
    """Return how many examples were read, by split, as the app's report has them.

    Of sums it is the most values of a column, and of categories how many names each column has.
    """
    if "inputs" in report:
        return {"train": max(map(int, report["inputs"]["count"]))}
    if "columns" in report:
        named = {plain(str(c))[:MOST_NAME]: len(names) for c, names in report["columns"].items()}
        return {f"categories of {column}": count for column, count in named.items()}
    if isinstance(report["examples"], dict):
        return {str(split): int(count) for split, count in report["examples"].items()}
    read = {"train": int(report["examples"])} if report["planned"] else {}
    for split, values in (report.get("metrics") or report.get("after") or {}).items():
        read[str(split)] = int(values["examples"])
    return read
