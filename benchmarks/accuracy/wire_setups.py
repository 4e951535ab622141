"""The data, models, sites and codings whose bytes and accuracy `benchmarks.wire` compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.accuracy.study import Case

GROUPS = ("common", "task")


def coded(name: str, coding: str, *options: str, groups: Sequence[str] = GROUPS) -> Case:
    """Return a case in which ``groups`` travel in ``coding``, both ways."""
    places = [f"strategy.{key}.{group}" for key in ("coding", "coding_down") for group in groups]
    chosen = [f"{place}={coding}" for place in places]
    more = [f"{place}.{option}" for place in places for option in options]
    return Case(name, (*chosen, *more))


EXACT = Case("exchanged groups, exact", ())
CASES = (
    EXACT,
    coded("bfloat16", "bfloat16"),
    coded("int8", "int8"),
    coded("2 bits", "lowbit", "bits=2"),
    coded("1 bit", "lowbit", "bits=1"),
    coded("top 5 %", "topk", "fraction=0.05"),
    coded("top 2 %", "topk", "fraction=0.02"),
    coded("low rank", "lowrank"),
)


@dataclass(frozen=True)
class Setup:
    """Data, model and sites.

    Parameters
    ----------
    name, title : str
        Of the files, and for people.
    experiment : str
        A file of conf/experiment.
    root : Path or None
        The data, absolute.
    tasks : tuple of str
        Of the sites whose bytes are counted, one each.
    counted : tuple of str
        Overrides of the deployment: its bytes do not depend on how much data there is.
    stock : str
        The network of the stock app.
    sites : int
        In the simulation.
    whole : tuple of str
        Overrides of the simulation that make it FedAvg of the whole model.
    cases : tuple of Case
        The codings.
    """

    name: str
    title: str
    experiment: str
    root: Path | None
    tasks: tuple[str, ...]
    counted: tuple[str, ...]
    stock: str
    sites: int
    whole: tuple[str, ...]
    cases: tuple[Case, ...] = CASES


def faces(body: Path) -> Setup:
    """Return the main experiment; the deployment starts from the ResNet-18 in the file ``body``."""
    few = ("data.train=32", "data.validation=4", "data.test=8", "data.tasks=[gender]")
    start = ("weights=file", f"weights.path={body}")
    return Setup(
        "faces",
        "drawn faces, ResNet-18",
        "faces_paper",
        None,
        ("gender",) * 3,
        (*few, *start, "train.epochs=1"),
        "resnet18",
        10,
        ("method=fedavg", "groups=all_common"),
    )


def har(root: Path) -> Setup:
    """Return UCI HAR, an MLP; the first three subjects are deployed."""
    return Setup(
        "har",
        "UCI HAR, MLP",
        "har",
        root,
        tuple(f"subject-{number:02}" for number in (1, 2, 3)),
        ("data.subjects=[1,2,3]", "train.epochs=1"),
        "mlp",
        30,
        ("method=fedavg", "groups=all_common"),
    )


def quick(root: Path) -> Setup:
    """Return one site of measurements and few codings, for a look at whether it works."""
    cases = tuple(case for case in CASES if case.name in (EXACT.name, "top 2 %"))
    few = ("data.subjects=[1]", "train.epochs=1")
    whole = replace(har(root), name="quick", title="seeded measurements, MLP", counted=few)
    return replace(whole, tasks=whole.tasks[:1], sites=1, cases=cases)


def write_body(path: Path) -> Path:
    """Write a ResNet-18 without its head, as it is drawn at random, and return ``path``."""
    import torch

    from models import weights
    from models.networks import build

    torch.manual_seed(1)
    network = build("resnet18", input_shape=(3, 64, 64), classes=2, head=[128, 64])
    body = {n: t for n, t in network.state_dict().items() if not n.startswith("head")}
    weights.save(path, body, {})
    return path
