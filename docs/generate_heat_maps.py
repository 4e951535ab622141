"""Draws docs/heat-maps.png: what `fedstrata predict --heatmaps` writes, for a few drawn faces.

    fedstrata run name=first
    python docs/generate_heat_maps.py first:site-00 first:site-01

For each model it shows the first test examples of the site: above as the network takes them, below
the heat map of what it predicts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from client_app.prediction import outputs_of, own_test_examples, rows, write_heat_maps
from fedstrata.cli.model_argument import find_model
from fedstrata.support.errors import UserError
from models.model_file import network_of, read_model
from models.preprocessing import Pictures

PICTURE = Path(__file__).resolve().parent / "heat-maps.png"
COLUMNS, SIDE, GAP, LINE = 8, 96, 4, 14


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    made = argparse.ArgumentParser(description="Draws docs/heat-maps.png.")
    made.add_argument("models", nargs="+", help="models of sites, as for `fedstrata predict`")
    made.add_argument("--runs", type=Path, action="append", help="where runs are kept")
    made.add_argument("--output", type=Path, default=PICTURE)
    options = made.parse_args(arguments)
    try:
        columns = [list(examples(find_model(each, options.runs))) for each in options.models]
    except UserError as error:
        sys.exit(f"generate_heat_maps: {error}")
    sheet(columns).quantize(64).save(options.output, optimize=True)


def examples(path: Path) -> Iterator[tuple[Image.Image, Image.Image, str]]:
    """Yield picture, heat map and caption of the first test examples of a model's site."""
    model = read_model(path)
    card, network = model.card, network_of(model)
    given = card.preprocessing
    if not isinstance(given, Pictures):
        raise UserError(f"{path}: this model takes no pictures")
    known = own_test_examples(model, path.parent)
    found = known.found.take(range(min(COLUMNS, len(known.targets))))
    outputs = outputs_of(network, found, device=torch.device("cpu"))
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (given.mean, given.std))
    with tempfile.TemporaryDirectory() as folder:
        write_heat_maps(card, network, found, outputs, Path(folder))
        maps = [Image.open(each).convert("RGB") for each in sorted(Path(folder).iterdir())]
    inputs = found.inputs.batch(torch.arange(len(found.places)).numpy())
    for picture, heat, row in zip(inputs, maps, rows(card, found, outputs), strict=True):
        shown = ((picture * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        image = Image.fromarray(shown.permute(1, 2, 0).numpy().squeeze())
        likeliest = max(float(value) for value in row[3:] if value is not None)
        yield image.convert("RGB"), heat, f"{row[2]} {likeliest:.2f}"


def sheet(blocks: Sequence[Sequence[tuple[Image.Image, Image.Image, str]]]) -> Image.Image:
    """Return all blocks below one another, each a row of pictures and a row of heat maps."""
    cell, height = SIDE + GAP, 2 * SIDE + GAP + LINE + 2 * GAP
    width = max(map(len, blocks)) * cell + GAP
    made = Image.new("RGB", (width, len(blocks) * height + GAP), "white")
    draw = ImageDraw.Draw(made)
    for block, held in enumerate(blocks):
        for place, (picture, heat, caption) in enumerate(held):
            left, upper = GAP + place * cell, GAP + block * height
            for below, image in enumerate((picture, heat)):
                enlarged = image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
                made.paste(enlarged, (left, upper + below * cell))
            draw.text((left, upper + 2 * SIDE + GAP + 1), caption, fill="black")
    return made


if __name__ == "__main__":
    main()
