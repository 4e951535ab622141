"""`fedstrata predict`: uses a model on files, and writes what it says of each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrata.cli.model_argument import add_model, find_model
from fedstrata.protocol.limits import printable
from fedstrata.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from client_app.model_inputs import ModelInputs
    from client_app.prediction import Known
    from models.model_file import ModelFile

MOST_NAMED = 20


def main(arguments: Sequence[str]) -> None:
    """Write the predictions; end with 1 where a file was left out, or nothing could be written."""
    try:
        left_out = predict(parser().parse_intermixed_args(arguments))
    except UserError as error:
        print(printable(f"fedstrata predict: {error}"), file=sys.stderr)
        sys.exit(1)
    for text in left_out[:MOST_NAMED]:
        print(printable(f"left out: {text}"), file=sys.stderr)
    if left_out:
        many = "1 file or row is" if len(left_out) == 1 else f"{len(left_out)} files or rows are"
        print(f"fedstrata predict: {many} left out", file=sys.stderr)
    sys.exit(1 if left_out else 0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata predict",
        description="Reads files as the model's card says, and writes a table of what the model "
        "says of each. What cannot be read is named and left out; the exit status is 1 then.",
    )
    add_model(made)
    made.add_argument("files", nargs="*", type=Path, help="files, or folders with them")
    made.add_argument("--manifest", type=Path, help="a CSV file whose column path names the files")
    made.add_argument(
        "--split",
        choices=("test",),
        help="the test examples of the run, as the site noted them beside its model",
    )
    made.add_argument("--output", type=Path, required=True, help="the table: .csv or .parquet")
    made.add_argument("--heatmaps", type=Path, metavar="FOLDER", help="Grad-CAM of each picture")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return made


def predict(options: argparse.Namespace) -> Sequence[str]:
    """Write the table, and print what was done; return what was left out, and why."""
    path = find_model(options.model, options.runs)
    if options.output.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"--output {options.output}: write a name that ends in .csv or .parquet")
    from client_app.context import choose_device
    from client_app.prediction import (
        check_heat_maps,
        columns,
        outputs_of,
        rows,
        write_heat_maps,
        write_table,
    )
    from models.model_file import folder_of, network_of, read_model

    model = read_model(path)
    card = model.card
    if not card.predicts_alone:
        raise UserError(f"method {card.method} predicts with more than the network of this file")
    print(printable(f"{path}: {card.state} model of task {card.task} after round {card.round}"))
    with folder_of(model) as models_dir:
        network = network_of(model, models_dir)
        if options.heatmaps is not None:
            check_heat_maps(card, network)
        found, known = _examples(options, model, models_dir)
        with _progress("predicting") as progress:
            device = choose_device(options.device)
            outputs = outputs_of(network, found, device=device, progress=progress)
    for note in found.notes:
        print(printable(note))
    written = list(rows(card, found, outputs))
    write_table(options.output, columns(card), written)
    print(printable(f"{len(written)} predictions: {options.output}"))
    if options.heatmaps is not None:
        with _progress("heat maps") as progress:
            write_heat_maps(card, network, found, outputs, options.heatmaps, progress)
        print(printable(f"heat maps: {options.heatmaps}"))
    if known is not None:
        _print_figures(model, known, outputs)
    return found.wrong


def _examples(
    options: argparse.Namespace, model: ModelFile, models_dir: Path
) -> tuple[ModelInputs, Known | None]:
    from client_app.model_inputs import files_of, read_inputs
    from client_app.prediction import own_test_examples

    with _progress("reading") as progress:
        if options.split:
            if options.files or options.manifest:
                raise UserError("--split test: the files are those of the run; name no others")
            known = own_test_examples(model, models_dir, progress)
            return known.found, known
        files = files_of(model.card, options.files, options.manifest)
        return read_inputs(model.card, files, models_dir, progress), None


def _print_figures(model: ModelFile, known: Known, outputs: Tensor) -> None:
    from client_app.prediction import figures, figures_of_run

    of_run = figures_of_run(model.card)
    for name, value in figures(model.card, known, outputs).items():
        own = of_run.get(name)
        said = "" if own is None else f" (the run's own: {own:.6g})"
        print(printable(f"{name}: {'-' if value is None else f'{value:.6g}'}{said}"))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows how far it is, on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)
