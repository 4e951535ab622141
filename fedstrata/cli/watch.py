"""`fedstrata watch`: a run as it goes on, as a page in the browser of this machine."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.runs.folder import find_run
from fedstrata.support.errors import UserError
from fedstrata.watch.server import Server

PORT = 8480


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata watch",
        description="Shows a run as it goes on, on a page of this machine alone. It reads the "
        "run's folder and changes nothing. Ctrl-C ends it; the run goes on.",
    )
    made.add_argument(
        "run",
        nargs="?",
        default="latest",
        metavar="RUN",
        help="a run's name, its folder, or latest",
    )
    made.add_argument("--port", type=int, default=PORT, help=f"by default {PORT}; 0: a free one")
    made.add_argument(
        "--runs-in",
        type=Path,
        metavar="FOLDER",
        help="where runs are looked for by name; by default ./outputs and ~/.fedstrata/runs",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page's address and show the run until Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        server = Server(find_run(options.run, options.runs_in).path, options.port)
    except UserError as error:
        sys.exit(f"fedstrata watch: {error}")
    print(f"{server.url}\nThe address has a secret: whoever has it sees the run.", flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.ended.set()
