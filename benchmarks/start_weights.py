"""Makes the start weights that come with the package: a small CNN that knows how faces look.

    python -m benchmarks.start_weights    # some 2 minutes; writes models/packaged/drawn_faces.json

It learns what `fedstrata.drawn_faces.LOOKS` names, on public pictures of people that no site has.
The five questions of the sites are not among it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fedstrata.protocol.plan import OptimizerConfig
from models.packaged import FOLDER, write_packaged
from server_app.pretraining import Pretraining, pretrain

SETTINGS = Pretraining(
    source="central",
    data="drawn_faces",
    target="looks",
    examples=6000,
    identities=400,
    cameras=16,
    size=48,
    epochs=10,
    batch_size=32,
    optimizer=OptimizerConfig(name="adamw", lr=0.004, momentum=0.9, weight_decay=0.01),
)
MODEL = {"name": "small_cnn", "head": [], "dropout": 0.0}
SEED = 1
COMMAND = "python -m benchmarks.start_weights"
ABOUT = (
    "small_cnn for drawn faces of 48 x 48: learned landmarks, colors, hair, sizes and light of "
    "6,000 public pictures; not gender, age, glasses, pose or teeth"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the weights and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER / "drawn_faces.json")
    parser.add_argument("--examples", type=int, default=SETTINGS.examples)
    parser.add_argument("--epochs", type=int, default=SETTINGS.epochs)
    options = parser.parse_args(arguments)
    settings = replace(SETTINGS, examples=options.examples, epochs=options.epochs)
    torch.set_num_threads(1)  # other numbers of threads round differently
    tensors = pretrain(settings, MODEL, SEED, device=torch.device("cpu"), log=print)
    write_packaged(options.output, tensors, about=ABOUT, command=COMMAND, license="Apache-2.0")
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
