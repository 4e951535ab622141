"""`fedstrata site`: the process that runs the app beside a SuperNode, and a site's other commands."""

from __future__ import annotations

import argparse
import importlib
import logging
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedstrata.protocol.knowledge import KNOWLEDGE
from fedstrata.support.errors import UserError

if TYPE_CHECKING:
    from site_guard.settings import SiteSettings

logger = logging.getLogger("flwr")


SUBCOMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "keygen": "make the site's keys, whose private halves never leave it",
        "approvals": "list the runs that wait for a yes, show one, allow or deny it",
        "doctor": "find what would go wrong, before the first run",
        "audit": "print and verify what the site was asked and what left it",
    }
)
"""Each further command with its help; ``fedstrata.cli.site_NAME`` has its ``main(arguments)``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what a subcommand says; without one, run the site's process until SIGTERM or SIGINT."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in SUBCOMMANDS:
        importlib.import_module(f"{__package__}.site_{given[0]}").main(given[1:])
        return
    options = parser().parse_args(given)
    try:
        _run(options)
    except UserError as error:
        sys.exit(str(error))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the site's process; each subcommand has its own."""
    width = max(map(len, SUBCOMMANDS))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, text in SUBCOMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="fedstrata site",
        usage="fedstrata site --settings SITE.YAML [options] | fedstrata site COMMAND ...",
        description="Runs beside a SuperNode started with --isolation process, instead of "
        "flower-superexec: keeps the app warm, and lets nothing leave that site.yaml does not share.",
        epilog=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", type=Path, required=True, help="site.yaml")
    parser.add_argument("--appio-api-address", default="127.0.0.1:9094", help="of the SuperNode")
    tls = parser.add_mutually_exclusive_group(required=True)
    tls.add_argument("--insecure", action="store_true", help="speak to the SuperNode without TLS")
    tls.add_argument("--root-certificates", type=Path, help="of the SuperNode's API, PEM")
    parser.add_argument("--superexec-auth-secret-file", type=Path, help="as the SuperNode has it")
    parser.add_argument("--check", action="store_true", help="read site.yaml, open the data, end")
    parser.add_argument("--alive", type=Path, help="file to touch every second, while it runs")
    parser.add_argument(
        "--is-alive",
        type=Path,
        action=_IsAlive,
        metavar="ALIVE",
        help="end with 0 where the file was touched within 30 s, else with 1",
    )
    return parser


class _IsAlive(argparse.Action):
    """Answers a health check and ends, whatever else is on the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from site_guard.alive import is_alive

        parser.exit(0 if isinstance(values, Path) and is_alive(values) else 1)


def _check_data(path: Path, settings: SiteSettings) -> None:
    """Say that nothing is wrong with settings that were read and data that opens; or raise."""
    from site_guard.doctor.checks import OK, PROBLEM
    from site_guard.doctor.files import check_data

    data = check_data(settings)
    if data.state == PROBLEM:
        raise UserError(f"{path}: data: {data.text}; {data.mend}")
    opens = "data opens" if data.state == OK else f"data could not be checked ({data.text})"
    print(f"{path}: site {settings.site}, task {settings.task}, {opens}, nothing wrong")
    if settings.model is not None:
        print(
            f"trains {settings.model!r} of the networks that a run offers, or a run's only network if "
            "it has that name; other runs are refused"
        )
    for group in settings.share:
        if group in KNOWLEDGE:
            known = KNOWLEDGE[group]
            print(f"shares {group} (method {', '.join(known.methods)}): {known.what}")
            print(f"  what can be read from it: {known.reveals}")


def _run(options: argparse.Namespace) -> None:
    from site_guard.settings import read_settings

    settings = read_settings(options.settings)
    if options.check:
        _check_data(options.settings, settings)
        return
    from fedstrata.support.freed_memory import keep_freed_memory
    from site_guard.alive import make_toucher
    from site_guard.appio import Address, Queue
    from site_guard.guard import make_guard
    from site_guard.own_process import adopt_orphans, close_memory

    if reason := close_memory():
        logger.warning("other processes of this user can read this one's memory: %s", reason)
    keep_freed_memory()
    guard = make_guard(settings, make_toucher(options.alive) if options.alive else lambda: None)
    queue = Queue(
        Address.read(
            options.appio_api_address, options.root_certificates, options.superexec_auth_secret_file
        )
    )
    if reason := adopt_orphans():
        logger.warning("what the app leaves behind may outlive its process: %s", reason)
    else:
        guard.process.adopts = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: guard.process.stopping.set())
    shared = " and ".join(settings.share) or "no group"
    logger.info("site %s, task %s: shares %s", settings.site, settings.task, shared)
    hours, now = ", ".join(settings.hours) or "any time", datetime.now().astimezone()
    logger.info("training may begin at %s; it is %s", hours, now.strftime("%H:%M %Z (UTC%z)"))
    logger.info("site %s: %s", settings.site, settings.who_decides())
    for weakness in guard.process.confinement.weaknesses():
        logger.warning("site %s: %s", settings.site, weakness)
    try:
        guard.audit.started()
        guard.run(queue)
    finally:
        guard.process.stop()
        shutil.rmtree(guard.process.confinement.bundles, ignore_errors=True)
        guard.audit.stopped()
        queue.close()
