"""The commands of a site: `fedstrata-site` beside its SuperNode, `fedstrata-sign` for the consortium."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")


def site(arguments: Sequence[str] | None = None) -> None:
    """Run the site's process until it is told to end."""
    parser = argparse.ArgumentParser(
        prog="fedstrata-site",
        description="Runs beside a SuperNode started with --isolation process, instead of "
        "flower-superexec: keeps the app warm, and lets nothing leave that site.yaml does not share.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="site.yaml")
    parser.add_argument("--appio-api-address", default="127.0.0.1:9094", help="of the SuperNode")
    tls = parser.add_mutually_exclusive_group(required=True)
    tls.add_argument("--insecure", action="store_true", help="speak to the SuperNode without TLS")
    tls.add_argument("--root-certificates", type=Path, help="of the SuperNode's API, PEM")
    parser.add_argument("--superexec-auth-secret-file", type=Path, help="as the SuperNode has it")
    parser.add_argument("--check", action="store_true", help="read site.yaml and end")
    parser.add_argument("--alive", type=Path, help="file to touch every second, while it serves")
    parser.add_argument(
        "--is-alive",
        type=Path,
        action=_IsAlive,
        metavar="ALIVE",
        help="end with 0 where the file was touched within 30 s, else with 1",
    )
    told = parser.parse_args(arguments)
    _ends_with_a_sentence(lambda: _site(told))


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


def _site(told: argparse.Namespace) -> None:
    from site_guard.settings import read_settings

    settings = read_settings(told.settings)
    if told.check:
        print(f"{told.settings}: site {settings.site}, task {settings.task}, nothing wrong")
        return
    from flwr.supercore.utils import disable_process_dumping

    from site_guard.alive import toucher
    from site_guard.appio import Address, Queue
    from site_guard.guard import make_guard

    disable_process_dumping(strict=False)
    guard = make_guard(settings, toucher(told.alive) if told.alive else lambda: None)
    queue = Queue(
        Address.read(
            told.appio_api_address, told.root_certificates, told.superexec_auth_secret_file
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: guard.process.stopping.set())
    shared = " and ".join(settings.share) or "no group"
    logger.info("site %s, task %s: shares %s", settings.site, settings.task, shared)
    hours, now = ", ".join(settings.hours) or "any time", datetime.now().astimezone()
    logger.info("training may begin at %s; it is %s", hours, now.strftime("%H:%M %Z (UTC%z)"))
    try:
        guard.serve(queue)
    finally:
        guard.process.stop()
        queue.close()


def sign(arguments: Sequence[str] | None = None) -> None:
    """Print the signature of the app bundle that `flwr run` would send."""
    parser = argparse.ArgumentParser(
        prog="fedstrata-sign",
        description="Signs the app bundle of a folder. Give the result to flwr run: "
        'flwr run . hospitals -c "signature=\\"$(fedstrata-sign --key consortium)\\""',
    )
    parser.add_argument("--key", type=Path, required=True, help="Ed25519, as ssh-keygen writes it")
    parser.add_argument("app", type=Path, nargs="?", default=Path(), help="folder of the app")
    told = parser.parse_args(arguments)
    _ends_with_a_sentence(lambda: _sign(told))


def _sign(told: argparse.Namespace) -> None:
    import click
    from flwr.cli.build import build_fab_from_disk

    from site_guard import signatures

    key = signatures.private_key(told.key)
    try:
        bundle = build_fab_from_disk(told.app)
    except (ValueError, OSError, click.ClickException) as error:
        raise UserError(f"{told.app} is no app that can be bundled: {error}") from None
    print(signatures.sign(bundle, key))


def _ends_with_a_sentence(do: Callable[[], None]) -> None:
    try:
        do()
    except UserError as error:
        sys.exit(f"{error}")
