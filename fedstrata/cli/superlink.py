"""`fedstrata superlink`: Flower's SuperLink, with ports and files for those alone who need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from consortium.superlink_start import APPIO, CONTROL, Start, become, prepare_state
from fedstrata.support.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata superlink",
        allow_abbrev=False,
        description="Turns into flower-superlink. Its other options are handed on, such as "
        "--fleet-api-address.",
    )
    security = made.add_mutually_exclusive_group(required=True)
    security.add_argument(
        "--keys", type=Path, help="folder with server.key, server.crt, ca.crt and appio.secret"
    )
    security.add_argument("--insecure", action="store_true", help="without TLS and keys")
    made.add_argument("--state", type=Path, required=True, help="folder of the database")
    made.add_argument("--control-api-address", default=CONTROL, help=f"by default {CONTROL}")
    made.add_argument("--serverappio-api-address", default=APPIO, help=f"by default {APPIO}")
    made.add_argument(
        "--isolation",
        choices=("process", "subprocess"),
        default="process",
        help="process: ServerApps run as the user of flower-superexec",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the SuperLink."""
    options, flowers = parser().parse_known_args(arguments)
    start = Start(
        options.keys,
        options.state,
        options.control_api_address,
        options.serverappio_api_address,
        options.isolation,
    )
    try:
        command = start.command()
        prepare_state(options.state)
        for line in start.notices():
            print(f"fedstrata superlink: {line}", file=sys.stderr, flush=True)
        become([*command, *flowers])
    except UserError as error:
        sys.exit(f"fedstrata superlink: {error}")
