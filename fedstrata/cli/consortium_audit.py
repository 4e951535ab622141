"""`fedstrata consortium audit`: the log of a run, verified, and compared with those of sites."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from consortium.audit import compare
from fedstrata.cli.audit_table import print_log, read_log, read_public_keys, since
from fedstrata.protocol.limits import printable

FILE = "audit.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("run", type=Path, help="folder of the run, or its audit.jsonl")
    parser.add_argument("--verify", action="store_true", help="find lines that are not as written")
    parser.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="LOG",
        help="a site's audit log",
    )
    parser.add_argument(
        "--public-key",
        type=Path,
        action="append",
        default=[],
        help="of the coordinator's audit key",
    )
    parser.add_argument(
        "--site-key", type=Path, action="append", default=[], help="audit.pub of a compared site"
    )
    parser.add_argument("--since", type=since, help="from this date on, such as 2026-11-01")
    parser.add_argument("--json", action="store_true", help="the lines as they are")


def audit(options: argparse.Namespace) -> None:
    """Print the log, or what a comparison found; end with 1 where something is wrong."""
    path = options.run / FILE if options.run.is_dir() else options.run
    log = read_log(path, read_public_keys(options.public_key))
    if not options.compare:
        status = print_log(log, since=options.since, verify=options.verify, as_json=options.json)
        sys.exit(status)
    wrong = [f"{path}: {problem}" for problem in log.problems]
    site_keys = read_public_keys(options.site_key)
    for site_path in options.compare:
        site_log = read_log(site_path, site_keys)
        wrong += [f"{site_path}: {problem}" for problem in site_log.problems]
        found = compare(site_log.lines, log.lines)
        print(printable(f"{found.site}: {found.same} payloads left and arrived the same"))
        for note in found.notes:
            print(printable(f"note: {note}"))
        wrong += found.problems
    for problem in wrong:
        print(printable(f"PROBLEM: {problem}"))
    sys.exit(1 if wrong else 0)
