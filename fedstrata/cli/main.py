"""The command `fedstrata`: finds the subcommand and hands it the rest of the command line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "run": "simulate a federation on this machine, and watch it",
        "runs": "list runs: their state, rounds and results",
        "check": "read data as a run would: what is taken, what not, and what leaves",
        "export": "write a model for other programs: ONNX, TorchScript, torchvision",
        "predict": "use a model on files: a table of probabilities, heat maps",
        "report": "write a run's page: figures, curves, layers, who took part; or several compared",
        "compare": "compare runs: means and deviations over seeds, gains over alone, bytes, seconds",
        "watch": "show a run as it goes on, as a page of this machine",
        "tune": "fine-tune a run's public model on one's own data, without taking part",
        "site": "run a site's process beside its SuperNode",
        "node": "run a SuperNode: flower-supernode with one more option and two repairs",
        "superlink": "run the consortium's SuperLink: flower-superlink, closed to others",
        "sign": "sign the app bundle that `flwr run` would send",
        "completion": "complete commands, keys and choices in bash and zsh",
        "consortium": "make keys and certificates, register hospitals, run to the end",
    }
)
"""Each subcommand with its help; the module of its name in this folder has ``main(arguments)``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand that the command line names.

    Parameters
    ----------
    arguments : sequence of str or None
        The command line without the program's name; None for that of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser().parse_args(given[:1])
    # Only the module that is needed: a health check runs every ten seconds, and Flower alone takes
    # a second to import.
    module = importlib.import_module(f"{__package__}.{chosen.command}")
    module.main(given[1:])


def parser() -> argparse.ArgumentParser:
    """Return the parser of the first word; each subcommand parses the others itself."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    made = argparse.ArgumentParser(
        prog="fedstrata",
        usage="fedstrata COMMAND ...",
        description="Federated transfer learning in layers, on Flower.",
        epilog=f"commands:\n{listed}\n\n`fedstrata COMMAND --help` lists the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return made
