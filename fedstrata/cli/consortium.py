"""`fedstrata consortium`: the coordinator's and the authority's commands, from founding to runs."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from consortium import driver, founding, hospital_keys, registration
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

    found = command("found", "a new consortium: certificates, and the key that signs apps", _found)
    certify = command("certify", "the authority's answer to a server's request", _certify)
    accept = command("accept", "put the authority's answer in place", _accept)
    renew = command("renew", "a new key and certificate of the server", _renew)
    add = command("add", "the public keys that a hospital sent", _add)
    register = command("register", "register the hospitals' keys, and write the roster", _register)
    run = command("run", "submit a run, and again after a crash, until it is complete", _run)
    for each in (found, accept, renew, add, register):
        each.add_argument("folder", type=Path, help="of the consortium")
    certify.add_argument("request", type=Path, help="server.csr; the answer goes beside it")
    accept.add_argument("answer", type=Path, help="folder with server.crt and ca.crt")
    for each in (found, certify, renew):
        each.add_argument(
            "--server", action="append", default=[], help="host name or address of the SuperLink"
        )
        each.add_argument(
            "--authority",
            type=Path,
            required=each is certify,
            help="folder of the authority; without it a request is made for one on another machine"
            if each is not certify
            else "folder of the authority, made if it is new",
        )
    audit = command("audit", "print, verify and compare the log of a run", consortium_audit.audit)
    consortium_audit.add_arguments(audit)
    found.add_argument(
        "--signing", type=Path, required=True, help="folder of the key that signs app bundles"
    )
    add.add_argument("--hospital", required=True, metavar="NAME:TASK", help="the site")
    add.add_argument("--key", type=Path, required=True, help="its supernode.pub")
    add.add_argument("--audit-key", type=Path, help="its audit.pub")
    add.add_argument("--replace", action="store_true", help="it has made new keys")
    for each in (register, run):
        each.add_argument("connection", help="name of the SuperLink in Flower's configuration")
    register.add_argument("--roster", type=Path, help="by default FOLDER/roster/roster.yaml")
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
    hosts = read_hosts(options.server)
    folder, authority, signing = options.folder, options.authority, options.signing
    founding.found(folder, hosts, authority, signing)
    print(f"{folder}: a consortium with a server called {', '.join(hosts)}")
    print(f"{signing}: the key that signs app bundles, for who submits runs")
    _say_request(folder, authority, hosts)
    print(f"The SuperLink and its ServerApps run as two other users than {_user()}.")
    print(f"Neither may be able to read {signing}{f' or {authority}' if authority else ''}.")
    print(f"Every hospital gets {folder / founding.PUBLIC}, and sends the keys it made itself.")


def _certify(options: argparse.Namespace) -> None:
    hosts = read_hosts(options.server)
    founding.certify(options.request, options.authority, hosts)
    answer = options.request.parent
    print(f"{answer / 'server.crt'}: a certificate for {', '.join(hosts)}")
    print(f"Send it back with {answer / 'ca.crt'}. {options.authority / 'ca.key'} stays here.")


def _accept(options: argparse.Namespace) -> None:
    founding.accept(options.folder, options.answer)
    print(f"{options.folder}: the server's certificate is in place; start the SuperLink (again)")


def _renew(options: argparse.Namespace) -> None:
    hosts = read_hosts(options.server)
    founding.renew(options.folder, hosts, options.authority)
    _say_request(options.folder, options.authority, hosts)
    if options.authority:
        print(f"{options.folder}: a new server certificate; start the SuperLink again")


def _say_request(folder: Path, authority: Path | None, hosts: Sequence[str]) -> None:
    if authority is not None:
        print(f"{authority}: the certificate authority; keep its ca.key offline")
        return
    csr = folder / founding.REQUEST / "server.csr"
    names = " ".join(f"--server {host}" for host in hosts)
    print(
        f"On the authority's machine: fedstrata consortium certify {csr.name} --authority DIR {names}"
    )
    print(f"with {csr}; then here: fedstrata consortium accept {folder} ANSWER")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"number {os.getuid()}"


def _add(options: argparse.Namespace) -> None:
    (hospital,) = read_hospitals([options.hospital])
    key = hospital_keys.add_hospital(
        options.folder, hospital, options.key, options.audit_key, replaces=options.replace
    )
    print(f"{hospital.name}, task {hospital.task}: {key.fingerprint}")
    print(
        "Compare this with what `fedstrata site keygen` printed there, by telephone; then register."
    )


def _register(options: argparse.Namespace) -> None:
    superlink = SuperLink(options.connection)
    roster = options.roster or options.folder / registration.ROSTER
    nodes = registration.register(options.folder, superlink, roster, log=_say)
    for name, node_id in nodes.items():
        print(f"{name}: node {node_id}")
    print(f"roster: {roster}")


def _run(options: argparse.Namespace) -> None:
    pairs = driver.read_pairs(options.pairs)
    superlink = SuperLink(options.connection)
    driver.RunDriver(superlink, options.app, pairs, options.name, options.again, log=_say).run()


def _say(line: str) -> None:
    print(line, flush=True)
