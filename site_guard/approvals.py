"""Approval run by run: what waits for a person of the site, what was decided, and what is left of it.

A folder has three files for each request: ``ID.request`` and ``ID.used`` by the site's process, and
``ID.decision`` by the person. ``ID`` is made of the run, the app bundle, the plan and the signed
start: where one of these changes, there is another request.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import MOST_REASON_CHARACTERS, NotNow, Refused, one_line
from fedstrata.protocol.plan import Plan, plan_from_json
from fedstrata.support.errors import UserError
from site_guard.private_files import make_folder, write_private
from site_guard.signatures import agreed_digests, plan_digest

MOST_WAITING = 50  # requests; a server must not fill the disk
MOST_DECIDED = 500
MOST_BUNDLES = 10  # kept, to be compared
TIMES = 2  # without --rounds: a round may be played again, so twice as many as the plan has
BEFORE_APPROVAL = (kinds.QUERY, kinds.WEIGHTS)
_ID = re.compile(r"[0-9a-f]{12}")
Stored = TypeVar("Stored", bound=msgspec.Struct)


class Waiting(NotNow):
    """An order of a run that a person of the site has not decided about yet."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decides about.

    Parameters
    ----------
    run : int
        Flower's number of the run that asked last; one that is resumed gets another number.
    federation : str
        The run's own name.
    asked : str
        When it first asked, UTC.
    bundle, plan_digest : str
        SHA-256 of the app bundle and of the plan.
    signer : str
        Fingerprint of the key that signed both, or "".
    plan : str
        The plan as JSON.
    start : str
        The checkpoint as it is signed: its content hash, ``any``, ``none``, or "" where nothing is.
    """

    run: int
    federation: str
    asked: str
    bundle: str
    plan_digest: str
    signer: str
    plan: str
    start: str = ""

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of run, bundle, plan and start."""
        text = "\n".join((self.federation, self.bundle, self.plan_digest, self.start))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def read_plan(self) -> Plan:
        """Return the plan."""
        return plan_from_json(self.plan)


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the person said: yes, until a time (UTC) and for so many rounds; or no, and why."""

    allowed: bool
    decided: str
    why: str = ""
    until: str = ""
    rounds: int = 0


class Used(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many rounds of an approval were trained; digests of what sites agreed on in the run."""

    rounds: int = 0
    agreed: dict[str, str] = {}


@dataclass
class Approvals:
    """The requests of a site in one folder.

    Parameters
    ----------
    folder : Path
        Made when the first run asks.
    site : str
        The site's name, for texts.
    now : callable
        Returns the time, UTC.
    """

    folder: Path
    site: str
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    # -- the site's process ----------------------------------------------------------------------

    def require(self, request: Request, bundle: bytes, kind: str) -> None:
        """Raise unless a person approved the request, and the approval still covers an order.

        Raises
        ------
        Waiting
            Nobody has decided yet; the request is on disk.
        Refused
            The answer was no, or the approval is over: its time, or its rounds.
        """
        decision = self.decision(request.id)
        if decision is None:
            self._ask(request, bundle)
            raise Waiting(f"waiting for approval at {self.site} (request {request.id})")
        self._note_run(request)
        who = f"request {request.id} at {self.site}"
        if not decision.allowed:
            raise Refused(f"{who} was denied by the site: {decision.why}")
        if decision.until and self.now() > datetime.fromisoformat(decision.until):
            raise Refused(f"the approval of {who} ended at {decision.until}")
        if kind in kinds.UPDATES and (done := self.used(request.id)) >= decision.rounds:
            raise Refused(
                f"the approval of {who} is used up: {done} of {decision.rounds} rounds were trained"
            )

    def count(self, request: Request) -> None:
        """Count a round against its approval."""
        used = self._used(request.id)
        self._note_used(request, msgspec.structs.replace(used, rounds=used.rounds + 1))

    def bind(self, request: Request) -> None:
        """Bind a request to the scale and categories in its plan, which no signature has.

        Raises
        ------
        Refused
            It is bound to others: they may not change in a run, also not when it is resumed.
        """
        used, agreed = self._used(request.id), agreed_digests(request.plan)
        if changed := [
            name for name in agreed if used.agreed.get(name, agreed[name]) != agreed[name]
        ]:
            raise Refused(
                f"the plan has another `{changed[0]}` than earlier in this run, to which request "
                f"{request.id} at {self.site} is bound: start a new run"
            )
        if not agreed.keys() <= used.agreed.keys():
            self._note_used(
                request, msgspec.structs.replace(used, agreed={**used.agreed, **agreed})
            )

    # -- the person ------------------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """Return all requests, the oldest first; raise UserError where one cannot be read."""
        found = [
            self._read(path.stem, "request", Request)
            for path in self.folder.glob("*.request")
            if _ID.fullmatch(path.stem)
        ]
        known = [request for request in found if request is not None]
        return sorted(known, key=lambda request: (request.asked, request.id))

    def find(self, name: str) -> Request:
        """Return the request of that id, run number or run name.

        Raises
        ------
        UserError
            There is none, or there are several; the text lists their ids.
        """
        every = self.requests()
        found = [each for each in every if name in (each.id, str(each.run), each.federation)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(each.id for each in found)
            raise UserError(f"{name} has {len(found)} requests: {ids}; write one of these")
        ids = ", ".join(each.id for each in every) or "none"
        raise UserError(f"no run {name[:80]!r} has asked here; requests: {ids}")

    def decision(self, request: str) -> Decision | None:
        """Return what was decided, or None."""
        return self._read(request, "decision", Decision)

    def used(self, request: str) -> int:
        """Return how many rounds were trained."""
        return self._used(request).rounds

    def agreed(self, request: str) -> Mapping[str, str]:
        """Return the digests to which a request is bound, by field of the plan."""
        return self._used(request).agreed

    def allow(self, request: Request, *, until: datetime | None, rounds: int | None) -> Decision:
        """Allow a request; the bundle becomes the one that later ones are compared with."""
        made = Decision(
            allowed=True,
            decided=_text(self.now()),
            until=_text(until) if until else "",
            rounds=rounds or TIMES * request.read_plan().rounds,
        )
        write_private(self._path(request.id, "decision"), msgspec.json.encode(made))
        write_private(self.folder / "last-approved", request.bundle.encode())
        return made

    def deny(self, request: Request, why: str) -> Decision:
        """Deny a request; the server gets ``why``."""
        reason = one_line(why)[: MOST_REASON_CHARACTERS // 2]
        made = Decision(allowed=False, decided=_text(self.now()), why=reason)
        write_private(self._path(request.id, "decision"), msgspec.json.encode(made))
        return made

    def bundle(self, digest: str) -> bytes | None:
        """Return an app bundle that is kept here, or None."""
        path = self.folder / f"{digest}.fab"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == digest else None

    def last_approved(self) -> str:
        """Return the SHA-256 of the bundle that was approved last, or ""."""
        try:
            return (self.folder / "last-approved").read_text()
        except OSError:
            return ""

    # -- files -----------------------------------------------------------------------------------

    def _used(self, request: str) -> Used:
        return self._read(request, "used", Used) or Used()

    def _note_used(self, request: Request, used: Used) -> None:
        write_private(self._path(request.id, "used"), msgspec.json.encode(used))

    def _ask(self, request: Request, bundle: bytes) -> None:
        """Put a request and its bundle on disk, unless they are there."""
        if self._path(request.id, "request").exists():
            self._note_run(request)
            return
        make_folder(self.folder.parent)
        make_folder(self.folder)
        others = self.requests()
        decided = [each for each in others if self.decision(each.id) is not None]
        if len(others) - len(decided) >= MOST_WAITING:
            raise NotNow(
                f"{MOST_WAITING} runs wait for approval at {self.site}, and no more are noted"
            )
        for old in decided[: max(0, len(decided) - MOST_DECIDED)]:
            for kind in ("request", "decision", "used"):
                self._path(old.id, kind).unlink(missing_ok=True)
        self._drop_bundles([*others, request])
        kept = self.folder / f"{request.bundle}.fab"
        if not kept.exists() and len(list(self.folder.glob("*.fab"))) < MOST_BUNDLES:
            write_private(kept, bundle)
        write_private(self._path(request.id, "request"), msgspec.json.encode(request))

    def _note_run(self, request: Request) -> None:
        """Note the number that a run has now: a run that is resumed gets another one."""
        known = self._read(request.id, "request", Request)
        if known is not None and known.run != request.run:
            changed = msgspec.structs.replace(known, run=request.run)
            write_private(self._path(request.id, "request"), msgspec.json.encode(changed))

    def _drop_bundles(self, requests: list[Request]) -> None:
        """Remove the bundles that nobody needs to compare any more."""
        waiting = {each.bundle for each in requests if self.decision(each.id) is None}
        for path in self.folder.glob("*.fab"):
            if path.stem not in {*waiting, self.last_approved()}:
                path.unlink(missing_ok=True)

    def _path(self, request: str, kind: str) -> Path:
        return self.folder / f"{request}.{kind}"

    def _read(self, request: str, kind: str, cls: type[Stored]) -> Stored | None:
        path = self._path(request, kind)
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): remove it, and decide anew"
            ) from None


def request_of(
    run: int,
    plan_json: str,
    plan: Plan,
    bundle: bytes,
    signer: str,
    asked: datetime,
    start: str = "",
) -> Request:
    """Return the request that an order belongs to."""
    return Request(
        run=run,
        federation=plan.federation,
        asked=_text(asked),
        bundle=hashlib.sha256(bundle).hexdigest(),
        plan_digest=plan_digest(plan_json),
        signer=signer,
        plan=plan_json,
        start=start,
    )


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
