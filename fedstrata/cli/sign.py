"""`fedstrata sign`: the signature of an app bundle, by a key of the consortium."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.support.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the signature of the app bundle that `flwr run` would send."""
    parser = argparse.ArgumentParser(
        prog="fedstrata sign",
        description="Signs the app bundle of a folder. Give the result to flwr run: "
        'flwr run . hospitals -c "signature=\\"$(fedstrata sign --key consortium)\\""',
    )
    parser.add_argument("--key", type=Path, required=True, help="Ed25519, as ssh-keygen writes it")
    parser.add_argument("app", type=Path, nargs="?", default=Path(), help="folder of the app")
    options = parser.parse_args(arguments)
    from site_guard.bundles import build
    from site_guard.signatures import private_key, sign

    try:
        key = private_key(options.key)
        print(sign(build(options.app), key))
    except UserError as error:
        sys.exit(str(error))
