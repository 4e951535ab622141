"""`fedstrata consortium`: the coordinator's `found`, `add`, `renew`, `register` and `run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from consortium import certificates, driver, registration
from consortium.members import read_hospitals, read_hosts
from consortium.superlink import SuperLink
from fedstrata.cli import consortium_audit
from fedstrata.support.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata consortium",
        description=__doc__,
        epilog="@FILE stands for the arguments in a file, one a line.",
        fromfile_prefix_chars="@",
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, do: object) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(do=do)
        return added

    found = command("found", "certificate authority, server certificate and all keys", _found)
    add = command("add", "the key pair of one more hospital", _add)
    renew = command("renew", "a new server certificate by the same authority", _renew)
    register = command("register", "register the hospitals' keys, and write the roster", _register)
    run = command("run", "submit a run, and again after a crash, until it is complete", _run)
    for each in (found, add, renew, register):
        each.add_argument("folder", type=Path, help="of the consortium")
    for each in (found, renew):
        each.add_argument(
            "--server", action="append", default=[], help="host name or address of the SuperLink"
        )
    for each in (found, add):
        each.add_argument(
            "--hospital",
            action="append",
            default=[],
            metavar="NAME:TASK",
            help="one site",
            required=each is add,
        )
    audit = command("audit", "print, verify and compare the log of a run", consortium_audit.audit)
    consortium_audit.add_arguments(audit)
    for each in (register, run):
        each.add_argument("connection", help="name of the SuperLink in Flower's configuration")
    register.add_argument("--roster", type=Path, help="by default FOLDER/superlink/roster.yaml")
    run.add_argument("--app", default=".", help="folder of the app")
    run.add_argument("--name", default="", help="of the run: one that began is resumed")
    run.add_argument(
        "--again", action="store_true", help="submit it although it failed, was stopped or ended"
    )
    run.add_argument("-c", dest="pairs", action="append", default=[], metavar="KEY=VALUE")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    options = parser().parse_args(arguments)
    try:
        options.do(options)
    except UserError as error:
        sys.exit(f"fedstrata consortium: {error}")
    except OSError as error:
        sys.exit(f"fedstrata consortium: {error.filename}: {error.strerror}")


def _found(options: argparse.Namespace) -> None:
    hosts, hospitals = read_hosts(options.server), read_hospitals(options.hospital)
    certificates.create_consortium(options.folder, hosts, hospitals)
    print(
        f"{options.folder}: an authority, a server certificate for {', '.join(hosts)}, and keys of"
    )
    for hospital in hospitals:
        print(f"  {hospital.name}, task {hospital.task}")
    print("Keep authority/ca.key offline. Give each hospital its own folder, by a safe way.")


def _add(options: argparse.Namespace) -> None:
    for hospital in read_hospitals(options.hospital):
        certificates.add_hospital(options.folder, hospital)
        print(f"{options.folder}: keys of {hospital.name}, task {hospital.task}")


def _renew(options: argparse.Namespace) -> None:
    certificates.renew_certificate(options.folder, read_hosts(options.server))
    print(f"{options.folder}: a new server certificate; start the SuperLink again")


def _register(options: argparse.Namespace) -> None:
    superlink = SuperLink(options.connection)
    roster = options.roster or options.folder / registration.ROSTER
    for name, node_id in registration.register(options.folder, superlink, roster).items():
        print(f"{name}: node {node_id}")
    print(f"roster: {roster}")


def _run(options: argparse.Namespace) -> None:
    pairs = driver.read_pairs(options.pairs)
    superlink = SuperLink(options.connection)
    driver.RunDriver(superlink, options.app, pairs, options.name, options.again, log=_say).run()


def _say(line: str) -> None:
    print(line, flush=True)
