"""`fedstrata-node`: Flower's SuperNode, which looks for messages often and waits for no dead app."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

from models.errors import UserError

POLL = 0.5  # seconds between two looks for messages at the SuperLink
BESIDE = 0.1  # seconds between two looks for what the site's own process has pushed
FLOWERS = (3, 0.5)  # seconds that Flower's loop sleeps in either case
SENDING = "yield_object_contents"  # the function in which Flower waits for the pieces of an answer
PATIENCE = 60.0  # seconds for one piece
PAUSE = 5.0  # seconds without a look at a piece after which a wait for it has ended


def node(arguments: Sequence[str] | None = None) -> None:
    """Run a SuperNode with Flower's own options and ``--poll``."""
    parser = argparse.ArgumentParser(prog="fedstrata-node", add_help=False, allow_abbrev=False)
    parser.add_argument("--poll", type=float, default=POLL)
    told, others = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(others):
        print(
            f"fedstrata-node is flower-supernode with one option more:\n\n  --poll SECONDS  between "
            f"two looks for messages at the SuperLink, default {POLL:g}; Flower's own is 3\n"
        )
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    try:
        look_every(start_client_internal, told.poll)
    except UserError as error:
        sys.exit(f"{error}")
    sys.argv = ["flower-supernode", *others]
    flower_supernode()


def look_every(loop: ModuleType, poll: float) -> None:
    """Let Flower's module with a SuperNode's loop sleep no longer than ``poll`` seconds.

    Flower 1.31 has no option for it: its loop sleeps 3 seconds after each look that found nothing,
    which is what most of a short round was waited for. And where the site's process was killed in
    the middle of handing an answer over, the loop waits for the rest of it for ever; here it gives
    that answer up after ``PATIENCE`` seconds and goes on, so that the site is there for the next
    round. Only the name ``time`` of that module is another one afterwards.

    Raises
    ------
    UserError
        ``poll`` is not above 0, or the module does not sleep as Flower 1.31 does.
    """
    if not poll > 0:
        raise UserError(f"--poll is {poll:g}: give seconds above 0")
    if getattr(loop, "time", None) is not time:
        raise UserError(
            f"{loop.__name__} does not sleep as that of Flower 1.31 does: use flower-supernode"
        )
    vars(loop)["time"] = SimpleNamespace(sleep=_Sleep(poll))


@dataclass
class _Sleep:
    """Sleeps in Flower's place."""

    poll: float
    _piece: str = ""  # of an answer: what is waited for
    _since: float = 0.0
    _seen: float = 0.0

    def __call__(self, seconds: float) -> None:
        """Sleep for ``seconds`` or less; raise TimeoutError where an answer never becomes whole."""
        caller = sys._getframe(1)
        if caller.f_code.co_name == SENDING:
            self._still(caller.f_locals["tree"].object_id)
        longest = dict(zip(FLOWERS, (self.poll, min(self.poll, BESIDE)), strict=True))
        time.sleep(min(seconds, longest.get(seconds, seconds)))

    def _still(self, piece: str) -> None:
        now = time.monotonic()
        if piece != self._piece or now - self._seen > PAUSE:  # or the wait before has ended
            self._piece, self._since = piece, now
        self._seen = now
        if now - self._since > PATIENCE:
            self._piece = ""
            raise TimeoutError(f"its app did not hand over all of it within {PATIENCE:.0f} s")
