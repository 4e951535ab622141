"""`fedstrata node`: Flower's SuperNode, with messages looked for often and answers sent in turn."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from fedstrata.support.errors import UserError
from fedstrata.support.freed_memory import keep_freed_memory
from site_guard.own_process import close_memory
from site_guard.supernode import POLL, prepare, start

logger = logging.getLogger("flwr")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a SuperNode with Flower's own options and ``--poll``."""
    parser = argparse.ArgumentParser(prog="fedstrata node", add_help=False, allow_abbrev=False)
    parser.add_argument("--poll", type=float, default=POLL)
    options, flowers = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(flowers):
        print(
            "fedstrata node is flower-supernode with one option more:\n\n  --poll SECONDS  between "
            f"two looks for messages at the SuperLink, default {POLL:g}; Flower's own is 3\n"
        )
    if reason := close_memory():
        logger.warning("other processes of this user can read this one's memory: %s", reason)
    keep_freed_memory()
    try:
        prepare(options.poll)
    except UserError as error:
        sys.exit(str(error))
    start(flowers)
