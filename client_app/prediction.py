"""What a model says of files: probabilities, heat maps, and figures where targets are known."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from client_app.data.paths import describe_file
from client_app.data.tables import table_rows
from client_app.kept_examples import HOW_READ, read_again
from client_app.model_inputs import ModelInputs, batches, read_inputs, sha256_of
from client_app.site_model import TEST_EXAMPLES, as_text
from fedstrata.protocol.task_kinds import CLASSES, LABELS
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError, private
from models.grad_cam import heat_maps, last_maps
from models.model_card import ModelCard
from models.model_file import ModelFile
from models.preprocessing import Pictures
from models.training.objectives import Measured, SomeNumbers, objective_of

BATCH = 64
Progress = Callable[[int, int], None]
Cell = str | int | float | None


@dataclass(frozen=True)
class Known:
    """Examples whose targets are known.

    Parameters
    ----------
    found : ModelInputs
        The examples.
    targets : NDArray
        As the labels of a `Split`.
    """

    found: ModelInputs
    targets: NDArray[Any]


@torch.no_grad()
def outputs_of(
    network: nn.Module,
    found: ModelInputs,
    *,
    device: torch.device,
    progress: Progress = lambda done, of: None,
) -> Tensor:
    """Return the network's outputs in order: float32 on the CPU, computed in float32."""
    network.to(device).eval()
    parts = []
    for start, batch in batches(found.inputs, BATCH):
        parts.append(network(batch.to(device)).float().cpu())
        progress(min(start + BATCH, len(found.places)), len(found.places))
    return torch.cat(parts)


def columns(card: ModelCard) -> list[str]:
    """Return the names of the table's columns."""
    names = list(card.outputs)
    if card.kind.name in (CLASSES, LABELS):
        return ["file", "row", "prediction", *(f"probability of {name}" for name in names)]
    unit = f" [{card.kind.unit}]" if card.kind.unit else ""
    return ["file", "row", *(f"{name}{unit}" for name in names)]


def rows(card: ModelCard, found: ModelInputs, outputs: Tensor) -> Iterator[list[Cell]]:
    """Yield a row for each example: where it is, what is predicted, and the probabilities."""
    if card.kind.name == CLASSES:
        values = outputs.double().softmax(1)
        said: list[list[Cell]] = [[card.outputs[int(each)]] for each in values.argmax(1)]
    elif card.kind.name == LABELS:
        values = outputs.double().sigmoid()
        said = [
            ["; ".join(n for n, p in zip(card.outputs, each, strict=True) if p >= 0.5)]
            for each in values.tolist()
        ]
    else:
        objective = objective_of(card.kind, len(card.outputs))
        assert isinstance(objective, SomeNumbers)
        values = objective.predicted(outputs)
        said = [[] for _ in values]
    for (path, row), first, numbers in zip(found.places, said, values.tolist(), strict=True):
        yield [as_text(path), row, *first, *numbers]


def write_table(path: Path, names: Sequence[str], written: Sequence[Sequence[Cell]]) -> None:
    """Write a table as CSV or Parquet, by the end of its name; for its owner alone.

    Raises
    ------
    UserError
        The name ends otherwise, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UserError(
            "--output" + private(f" {path}") + ": write a name that ends in .csv or .parquet"
        )
    try:
        with replacing_private(path) as unfinished:
            if suffix == ".csv":
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows([names, *written])
                unfinished.write_text(text.getvalue(), encoding="utf-8")
            else:
                import pyarrow
                from pyarrow import parquet

                arrays = [pyarrow.array(list(column)) for column in zip(*written, strict=True)]
                parquet.write_table(pyarrow.table(arrays, names=list(names)), unfinished)
    except OSError as error:
        raise UserError(
            "--output" + private(f" {path}") + f": cannot be written ({error.strerror})"
        ) from None


# -- the run's own test data -----------------------------------------------------------------------


def own_test_examples(
    model: ModelFile, models_dir: Path, progress: Progress = lambda done, of: None
) -> Known:
    """Return the test examples of the run, as the site beside whose model they are noted had them.

    Raises
    ------
    UserError
        Nothing is noted there, or as `read_test_examples` and `read_again`.
    """
    how = _beside(model.path, HOW_READ)
    if how is not None:
        inputs, targets, places = read_again(model.card, how)
        return Known(ModelInputs(inputs, places), targets)
    table = _beside(model.path, TEST_EXAMPLES)
    if table is None:
        raise UserError(
            f"--split test: there is no {TEST_EXAMPLES} or {HOW_READ} beside "
            + private(model.path, "the model")
            + ": the site of the run keeps them; a public model has none"
        )
    return read_test_examples(model.card, table, models_dir, progress)


def _beside(model: Path, name: str) -> Path | None:
    """Return where a site's file of that name is: in the model's folder, or above it."""
    found = (folder / name for folder in (model.parent, model.parent.parent))
    return next((path for path in found if path.is_file()), None)


def read_test_examples(
    card: ModelCard, table: Path, models_dir: Path, progress: Progress = lambda done, of: None
) -> Known:
    """Read the test examples of the run again, with their targets, in the run's order.

    What is missing, or changed since, is left out and named.

    Raises
    ------
    UserError
        The table is not of this model, or no example can be read.
    """
    target_columns = ("target",) if card.kind.name == CLASSES else card.outputs
    listed = [row for _, row in table_rows(table, ["file", "row", "sha256", *target_columns])]
    wrong: list[str] = []
    paths = []
    digests: dict[Path, set[str]] = {}
    for row in listed:
        digests.setdefault(Path(row["file"]), set()).add(row["sha256"])
    for path, expected in digests.items():
        if expected == {sha256_of(path)}:
            paths.append(path)
        else:
            wrong.append(f"{path}: is missing, or has changed since the run")
    if not paths:
        raise UserError(
            "--split test: no example can be read" + private(f": {'; '.join(wrong[:3])}")
        )
    lines: dict[Path, set[int]] = {}
    for row in listed:
        lines.setdefault(Path(row["file"]), set()).add(_whole(row["row"], table))
    found = read_inputs(card, paths, models_dir, progress, of_run=lines)
    number = {place: index for index, place in enumerate(found.places)}
    chosen: list[int] = []
    targets = []
    for row in listed:
        place = Path(row["file"]), _whole(row["row"], table)
        if place in number:
            chosen.append(number[place])
            targets.append(_target(card, [row[column] for column in target_columns], table))
        elif place[0] in paths:
            wrong.append(f"{place[0]}, row {place[1]}: cannot be read")
    dtype = np.int64 if card.kind.name == CLASSES else np.float32
    taken = found.take(chosen)
    known = replace(taken, wrong=(*wrong, *found.wrong))
    return Known(known, np.array(targets, dtype=dtype))


def figures(card: ModelCard, known: Known, outputs: Tensor) -> Measured:
    """Return the measures that the run reports, of these examples."""
    objective = objective_of(card.kind, len(card.outputs))
    return objective.measure(outputs, torch.from_numpy(known.targets))


def figures_of_run(card: ModelCard) -> Measured:
    """Return what the run itself measured on the test data with this model, as the card has it."""
    stages = list(card.metrics.values())
    return dict(stages[-1].get("test", {})) if stages else {}


def _whole(cell: str, table: Path) -> int:
    try:
        return int(cell)
    except ValueError:
        raise UserError(
            describe_file(table) + private(f": {cell[:40]!r}", ": a cell") + " is no row"
        ) from None


def _target(card: ModelCard, cells: Sequence[str], table: Path) -> int | list[float]:
    try:
        if card.kind.name == CLASSES:
            return card.outputs.index(cells[0])
        return [float(cell) if cell else np.nan for cell in cells]
    except ValueError:
        raise UserError(
            describe_file(table)
            + private(f": {cells[0][:80]!r}", ": a cell")
            + " is not of this model"
        ) from None


# -- heat maps -------------------------------------------------------------------------------------


def check_heat_maps(card: ModelCard, network: nn.Sequential) -> None:
    """Raise UserError for a model that has no heat maps: not of pictures, or of too small ones."""
    if card.preprocessing is not None and not isinstance(card.preprocessing, Pictures):
        raise UserError("--heatmaps: this model takes no pictures; leave it out")
    last_maps(network, torch.zeros(1, *card.network.input_shape))


def write_heat_maps(
    card: ModelCard,
    network: nn.Sequential,
    found: ModelInputs,
    outputs: Tensor,
    folder: Path,
    progress: Progress = lambda done, of: None,
) -> None:
    """Write, for each picture, where in it the network saw what it predicts.

    Of classes that is the likeliest, of labels too, and of numbers the first. The files are
    ``00001-<name>.png``, in the table's order, for their owner alone.

    Raises
    ------
    UserError
        A file cannot be written, or as `check_heat_maps`.
    """
    network = network.cpu().eval()
    check_heat_maps(card, network)
    given = card.preprocessing
    assert isinstance(given, Pictures)
    numbers = card.kind.name not in (CLASSES, LABELS)
    best = [0] * len(outputs) if numbers else outputs.argmax(1).tolist()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (given.mean, given.std))
    try:
        for start, batch in batches(found.inputs, BATCH):
            maps = heat_maps(network, batch, best[start : start + len(batch)])
            for offset, (picture, heat) in enumerate(zip(batch * std + mean, maps, strict=True)):
                path, row = found.places[start + offset]
                part = f"-{row}" if row else ""
                name = f"{start + offset + 1:05d}-{path.name.partition('.')[0][:40]}{part}.png"
                with replacing_private(folder / name) as unfinished:
                    over(picture, heat).save(unfinished, "PNG")
            progress(start + len(batch), len(found.places))
    except OSError as error:
        raise UserError(
            "--heatmaps" + private(f" {folder}") + f": cannot be written ({error.strerror})"
        ) from None


def over(picture: Tensor, heat: Tensor) -> Image.Image:
    """Return a picture, ``(channels, height, width)`` from 0 to 1, in gray with the heat in red."""
    gray = picture.clamp(0, 1).mean(0)
    colors = torch.stack([gray + heat * (1 - gray), gray * (1 - heat), gray * (1 - heat)], dim=-1)
    return Image.fromarray((colors * 255).round().to(torch.uint8).numpy())
