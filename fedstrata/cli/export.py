"""`fedstrata export`: writes a model for other programs, and says what it takes there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrata.cli.model_argument import add_model, find_model
from fedstrata.protocol.limits import printable
from fedstrata.support.errors import UserError

FORMATS = ("torchscript", "onnx", "torch.export", "safetensors", "torchvision")


def main(arguments: Sequence[str]) -> None:
    """Write the model; end with 1 where that cannot be."""
    options = parser().parse_args(arguments)
    try:
        for line in export(options):
            print(printable(line))
    except UserError as error:
        print(printable(f"fedstrata export: {error}"), file=sys.stderr)
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata export",
        description="Writes a model in another format, with its card as JSON beside it, and "
        "compares its logits with the trainer's.",
    )
    add_model(made)
    made.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    made.add_argument(
        "--output", type=Path, help="the file; by default in this folder, named by task and site"
    )
    made.add_argument(
        "--prepared",
        action="store_true",
        help="the written model takes inputs that are scaled already; by default it takes values "
        "as they stand in files where it can",
    )
    return made


def export(options: argparse.Namespace) -> list[str]:
    """Return what was written, for a person."""
    path = find_model(options.model, options.runs)
    from models.export import SUFFIXES
    from models.export import export as write
    from models.model_file import folder_of, network_of, read_model

    model = read_model(path)
    card = model.card
    name = "-".join(filter(None, (card.task, card.site, card.state)))
    output = options.output or Path(f"{name}{SUFFIXES[options.format]}")
    with folder_of(model) as models_dir:
        network = network_of(model, models_dir)
        try:
            made = write(network, card, options.format, output, prepared=options.prepared)
        except OSError as error:
            raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    said = [
        f"{path}: {card.state} model of task {card.task} after round {card.round}",
        f"written: {made.path}",
        f"it takes {made.takes}",
        f"what becomes of a file before that: {made.card}",
        f"its logits differ from the trainer's by at most {made.difference:.1g}",
    ]
    if card.state == "public" and card.groups.get("personal"):
        said.append(
            f"note: {card.groups['personal']} personal tensors are as the run began with them: "
            "`fedstrata tune` trains them"
        )
    return said
