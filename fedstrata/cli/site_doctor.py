"""`fedstrata site doctor`: what would go wrong in the first run, each with the line that mends it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from fedstrata.protocol.limits import printable
from fedstrata.support.errors import UserError
from site_guard.doctor.checks import PROBLEM, Check, unknown


def main(arguments: Sequence[str]) -> None:
    """Print what each check found; end with 1 where one found a problem."""
    parser = argparse.ArgumentParser(
        prog="fedstrata site doctor",
        description="Checks key and certificate, the way to the server, clock, GPU, disk, memory, "
        "users, data and versions. It changes nothing here, and nothing at the server.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="site.yaml")
    parser.add_argument("--superlink", metavar="HOST:PORT", help="the consortium's Fleet port")
    parser.add_argument("--root-certificates", type=Path, help="ca.crt, the consortium's authority")
    parser.add_argument("--key", type=Path, help="supernode.key")
    parser.add_argument("--constraints", type=Path, help="the coordinator's constraints.txt")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each step, default 10")
    parser.add_argument("--json", action="store_true", help="for another program")
    options = parser.parse_args(arguments)
    try:
        sys.exit(report(all_checks(options), as_json=options.json))
    except UserError as error:
        sys.exit(f"fedstrata site doctor: {error}")


def all_checks(options: argparse.Namespace) -> Iterator[Check]:
    """Yield what each check finds, as it finds it."""
    from site_guard.doctor.certificates import check_authority, check_key
    from site_guard.doctor.files import check_apart, check_files
    from site_guard.doctor.machine import check_machine
    from site_guard.doctor.network import Server, check_network, read_address
    from site_guard.settings import read_settings

    settings = read_settings(options.settings)
    host, port = read_address(options.superlink) if options.superlink else ("", 0)
    yield from check_files(options.settings, settings)
    if options.key:
        yield from check_key(options.key)
        yield check_apart(options.key, settings)
    else:
        yield unknown("key", "no --key", "give --key supernode.key, as the node's user")
    if options.root_certificates:
        yield check_authority(options.root_certificates)
    if host:
        server = Server(host, port, options.root_certificates, options.key, options.seconds)
        yield from check_network(server)
    else:
        yield unknown("server", "no --superlink", "give --superlink HOST:9092")
    yield from check_machine(settings, options.constraints)


def report(checks: Iterable[Check], *, as_json: bool) -> int:
    """Print the checks; return the exit status."""
    found: list[Check] = []
    for check in checks:
        found.append(check)
        if not as_json:
            print(printable(f"{check.state:20}  {check.name}: {check.text}"), flush=True)
            if check.mend:
                print(printable(f"{'':20}    -> {check.mend}"), flush=True)
    problems = sum(check.state == PROBLEM for check in found)
    if as_json:
        print(json.dumps([asdict(check) for check in found], indent=1))
    else:
        print(f"{len(found)} checks, {problems or 'no'} problem{'' if problems == 1 else 's'}")
    return 1 if problems else 0
