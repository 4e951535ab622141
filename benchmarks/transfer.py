"""Every way of transfer: `python -m benchmarks.transfer --sets pneumonia pacs faces deployment`.

Each set of data gives a table (federated, the same sites alone, all data in one place), curves, and
a picture of each site's data. Finished runs stay in --work and are not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy import prepare, transfer_sets
from benchmarks.accuracy.deployment_table import DeploymentTable
from benchmarks.accuracy.transfer_sets import TransferSet
from benchmarks.accuracy.transfer_table import TransferTable
from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import (
    Parser,
    add_data,
    add_runs,
    at_least,
    check_data,
    make_parser,
)

SETS = ("pneumonia", "skewed", "pacs", "faces", "deployment", "text")
READS = {
    "pneumonia": ("--pneumonia", "--weights"),
    "skewed": ("--pneumonia", "--weights"),
    "pacs": ("--pacs", "--weights"),
    "text": ("--texts", "--encoder"),
}


def parser() -> Parser:
    """Return the command line."""
    made = make_parser("transfer", __doc__)
    without_text = [name for name in SETS if name != "text"]
    made.add_argument("--sets", choices=SETS, nargs="+", default=without_text)
    labels_help = "a class and site; or all"
    made.add_argument("--labels", nargs="+", type=_labels, default=[10], help=labels_help)
    made.add_argument("--rounds", type=at_least(1), default=8)
    add_data(made, "--pneumonia", "pneumoniamnist.npz", "PneumoniaMNIST")
    add_data(made, "--pacs", "pacs_subset.zip", "PACS, a folder or a zip archive")
    add_data(made, "--weights", "squeezenet1_1_torchvision.npz", "ImageNet's SqueezeNet 1.1")
    made.add_argument("--texts", type=Path, help="a CSV file (text, label), for the set text")
    made.add_argument("--encoder", type=Path, help="the folder of a text encoder, for the set text")
    made.add_argument("--topic", help="the column of --texts by which they are split among sites")
    made.add_argument("--text-sites", type=at_least(1), default=4)
    return add_runs(made)


def _labels(text: str) -> int | None:
    """Return the labeled pictures of a class and site, none for all."""
    return None if text == "all" else at_least(1)(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen sets and write their tables."""
    options = parser().parse(arguments)
    needed = [option for name in options.sets for option in READS.get(name, ())]
    check_data(parser(), options, needed)
    seeds, work = tuple(options.seeds), options.work.resolve()
    # Central training finds what it looks up where the simulations have it.
    os.environ["FEDSTRATA_HOME"] = str(work / "home")
    with Simulator(work) as simulator:
        sets = [
            choose(name, options, work, labels)
            for labels in options.labels
            for name in options.sets
            if name != "deployment"
        ]
        for each in sets:
            TransferTable(each, seeds).run(simulator, options.output, options.command)
        if "deployment" in options.sets:
            table = DeploymentTable(transfer_sets.deployment(options.rounds), seeds)
            table.run(simulator, options.output, options.command)


def choose(name: str, options: argparse.Namespace, work: Path, labels: int | None) -> TransferSet:
    """Return the set called ``name``."""
    rounds = options.rounds
    if name == "faces":
        return transfer_sets.drawn_faces(rounds, labels)
    if name == "text":
        encoder, root = options.encoder.resolve(), options.texts.resolve()
        shutil.copytree(encoder, work / "home" / "models" / encoder.name, dirs_exist_ok=True)
        sites, topic = options.text_sites, options.topic
        return transfer_sets.text(root, encoder, sites, topic, rounds, labels)
    weights = options.weights.resolve()
    if name == "pacs":
        root = prepare.pacs(options.pacs.resolve(), work / "data")
        return transfer_sets.pacs(root, weights, rounds, labels)
    root = options.pneumonia.resolve()
    return transfer_sets.pneumonia(root, weights, rounds, labels, skewed=name == "skewed")


if __name__ == "__main__":
    main()
