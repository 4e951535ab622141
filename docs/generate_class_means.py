"""Draws docs/class-means.png: features of two sites alone, and with the prototypes of FedProto.

    mix="groups=all_common weights=none models=mlp4 model.head=[32] strategy.rounds=20"
    har="--nodes 4 experiment=har data-root=/data/har.npz data.task=activity data.subjects=[1,2,3,4]"
    fedstrata run $har $mix name=alone method=local
    fedstrata run $har $mix name=together method=fedproto
    python docs/generate_class_means.py alone together subject-01 subject-02

Each panel shows what enters the last layer for the test examples of both sites, in the plane in which
these points spread most. Sites' networks may differ, but the features are as many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client_app.prediction import own_test_examples
from fedstrata.cli.model_argument import find_model
from fedstrata.support.errors import UserError
from models.freezing import split_before
from models.model_file import network_of, read_model
from strategies.class_statistics import COUNTS, SUMS, means_of

PICTURE = Path(__file__).resolve().parent / "class-means.png"
MARKS = ("o", "^")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """The test examples of a site as its network sees them.

    Parameters
    ----------
    site : str
        Its name, and its network's.
    features : NDArray[np.float64]
        Shape ``(n, d)``.
    labels : NDArray[np.int64]
        Shape ``(n,)``.
    classes : tuple of str
        Their names.
    prototypes : dict of int to NDArray[np.float64]
        The global prototypes that the site received, by class, each ``(d,)``; none of a run without.
    """

    site: str
    features: Floats
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    prototypes: dict[int, Floats]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    made = argparse.ArgumentParser(description="Draws docs/class-means.png.")
    made.add_argument("before", help="a run in which each site trains alone")
    made.add_argument("after", help="a run of the same sites with method=fedproto")
    made.add_argument("sites", nargs=2, help="two sites")
    made.add_argument("--runs", type=Path, action="append", help="where runs are kept")
    made.add_argument("--output", type=Path, default=PICTURE)
    options = made.parse_args(arguments)
    try:
        panels = [
            [seen(run, site, options.runs) for site in options.sites]
            for run in (options.before, options.after)
        ]
    except UserError as error:
        sys.exit(f"generate_class_means: {error}")
    draw(options.output, panels)


def seen(run: str, site: str, folders: list[Path] | None) -> Seen:
    """Return what a site's last model of a run makes of the site's test examples.

    Raises
    ------
    UserError
        There is no such run or site, or its examples cannot be read.
    """
    model = read_model(find_model(f"{run}:{site}:last", folders))
    known = own_test_examples(model, model.path.parent)
    body, _ = split_before(network_of(model).eval(), "head.out")
    with torch.no_grad():
        features = body(known.found.inputs.batch(np.arange(len(known.targets))))
    prototypes: dict[int, Floats] = {}
    if SUMS in model.tensors:
        means, there = means_of(model.tensors[SUMS], model.tensors[COUNTS])
        found = torch.nonzero(there).flatten().tolist()
        prototypes = {number: means[number].double().numpy() for number in found}
    kind = f"{site}, {model.card.network.name} {describe(model.card.network.options)}".strip()
    outputs = tuple(model.card.outputs)
    return Seen(kind, features.double().numpy(), known.targets, outputs, prototypes)


def describe(options: dict[str, object]) -> str:
    """Return the widths of a perceptron, by which those of a mix differ."""
    hidden = options.get("hidden")
    return "-".join(map(str, hidden)) if isinstance(hidden, list | tuple) else ""


def plane_of(points: Floats) -> tuple[Floats, Floats]:
    """Return the mean of points ``(n, d)``, and the two directions ``(d, 2)`` of largest variance."""
    center = points.mean(axis=0)
    _, _, directions = np.linalg.svd(points - center, full_matrices=False)
    return center, directions[:2].T


def draw(path: Path, panels: Sequence[Sequence[Seen]]) -> None:
    """Draw both panels beside each other."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    classes = panels[0][0].classes
    colors = [colormaps["tab10"](number % 10) for number in range(len(classes))]
    titles = ("each site alone", "with FedProto; the stars are the global prototypes")
    for axes, sites, title in zip(figure.subplots(1, 2), panels, titles, strict=True):
        together = np.concatenate([site.features for site in sites])
        center, plane = plane_of(together)
        for site, mark in zip(sites, MARKS, strict=True):
            for number, color in enumerate(colors):
                points = (site.features[site.labels == number] - center) @ plane
                if len(points):
                    axes.scatter(*points.T, s=18, color=color, marker=mark, alpha=0.6, lw=0)
        for number, prototype in sites[0].prototypes.items():
            at = (prototype - center) @ plane
            axes.scatter(*at, s=260, color=colors[number], marker="*", edgecolors="black")
        axes.set(title=title, xticks=[], yticks=[])
        axes.set_xlabel("first principal component")
    figure.axes[0].set_ylabel("second principal component")
    entries = [
        *(
            figure.axes[0].scatter([], [], color=color, label=name.replace("_", " ").lower())
            for name, color in zip(classes, colors, strict=True)
        ),
        *(
            figure.axes[0].scatter([], [], color="gray", marker=mark, label=site.site)
            for site, mark in zip(panels[0], MARKS, strict=True)
        ),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
