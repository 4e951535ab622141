"""What a peer's program reads and writes: site files, start weights, rounds and the final average.

Needs torch and numpy alone, for it runs in each peer's own environment.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Site:
    """The examples of a site, in memory.

    Parameters
    ----------
    train_x, test_x : Tensor
        Features, float32 of shape (examples, features).
    train_y, test_y : Tensor
        Labels, int64 of shape (examples,).
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def read_sites(folder: Path, count: int) -> list[Site]:
    """Return the sites whose files are ``0.npz``, ``1.npz`` and so on in ``folder``."""
    return [Site(**_tensors(folder / f"{index}.npz")) for index in range(count)]


def perceptron(start: Path) -> nn.Sequential:
    """Return the perceptron whose weights and biases, in its own order, are in the npz file."""
    arrays = list(_tensors(start).values())
    layers: list[nn.Module] = []
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _tensors(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in sorted(arrays)}


@dataclass
class Report:
    """What a run leaves, in the form of the stock app's: when rounds ended, and the average.

    Parameters
    ----------
    sites : int
        Sites that trained in each round.
    rounds : list of dict
        Of each round: ``ended``, seconds of the clock; ``replies``, sites; ``metrics``.
    """

    sites: int
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def end_round(self, **metrics: float) -> None:
        """Note that a round ends now, and what was measured in it."""
        self.rounds.append({"ended": time.time(), "replies": self.sites, "metrics": metrics})

    def write(self, output: Path, parameters: Sequence[Tensor]) -> None:
        """Write ``average.npz`` and ``rounds.json`` into ``output``."""
        output.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"{number:03d}": each.detach().numpy() for number, each in enumerate(parameters)
        }
        np.savez(output / "average.npz", **arrays)
        summary = {"rounds": self.rounds, "model": sum(each.nbytes for each in arrays.values())}
        # Written last: whoever waits for this file finds everything there.
        (output / "rounds.json").write_text(json.dumps(summary))


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the command line of a program, whose options are named as the stock app's run config."""
    made = argparse.ArgumentParser(description=description)
    for name in ("num-server-rounds", "local-epochs", "batch-size", "sites"):
        made.add_argument(f"--{name}", type=int, required=True)
    made.add_argument("--lr", type=float, required=True)
    for name, what in (
        ("data", "folder of <number>.npz"),
        ("start", "npz of the parameters that the first round begins with"),
        ("output", "folder for rounds.json and average.npz"),
    ):
        made.add_argument(f"--{name}", type=Path, required=True, help=what)
    return made
