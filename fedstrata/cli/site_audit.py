"""`fedstrata site audit`: what the site was asked and what left, read from its audit log."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.cli.audit_table import print_log, read_log, read_public_keys, since
from fedstrata.support.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Print the audit log as a table; end with 1 where it is verified and something is wrong."""
    parser = argparse.ArgumentParser(
        prog="fedstrata site audit",
        description="Prints what this site was asked, and what left it.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="site.yaml")
    parser.add_argument("--log", type=Path, help="another file than the one in site.yaml")
    parser.add_argument("--public-key", type=Path, action="append", default=[], help="audit.pub")
    parser.add_argument("--verify", action="store_true", help="find lines that are not as written")
    parser.add_argument("--since", type=since, help="from this date on, such as 2026-11-01")
    parser.add_argument("--json", action="store_true", help="the lines as they are")
    options = parser.parse_args(arguments)
    from site_guard.settings import read_settings

    try:
        settings = read_settings(options.settings)
        key = Path(settings.audit.key) if settings.audit.key else None
        keys = read_public_keys(options.public_key or ([key.with_suffix(".pub")] if key else []))
        log = read_log(options.log or settings.audit_log, keys)
    except UserError as error:
        sys.exit(f"fedstrata site audit: {error}")
    if not keys and options.verify:
        log.notes.append("no key: whoever can write the log can make all of it anew")
    sys.exit(print_log(log, since=options.since, verify=options.verify, as_json=options.json))
