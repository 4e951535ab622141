"""`fedstrata site keygen`: the hospital's own keys, whose private halves never leave it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.protocol.limits import NAME
from fedstrata.support.errors import UserError
from fedstrata.support.fingerprints import fingerprint


def main(arguments: Sequence[str]) -> None:
    """Make the keys of a site in a new folder, and say what to send to the coordinator."""
    parser = argparse.ArgumentParser(
        prog="fedstrata site keygen",
        description="Makes the site's keys in a new folder. The .pub files go to the coordinator; "
        "the .key files stay.",
    )
    parser.add_argument("folder", type=Path, help="made by this command")
    parser.add_argument("--name", required=True, help="of the site, as in its site.yaml")
    options = parser.parse_args(arguments)
    from site_guard.keys import NODE, make_keys

    try:
        if not NAME.fullmatch(options.name):
            raise UserError("--name must be letters, digits, '.', '_' and '-', at most 64")
        made = make_keys(options.folder, options.name)
    except UserError as error:
        sys.exit(f"fedstrata site keygen: {error}")
    for pair, line in made.items():
        print(f"{options.folder / pair}.pub: {line}")
    print(f"The coordinator asks for this by telephone: {fingerprint(made[NODE])}")
    print("Send the two .pub files to the coordinator. The .key files never leave this hospital.")
