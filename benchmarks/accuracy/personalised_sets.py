"""The data of sites over which personalised methods are compared, and the methods as cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.study import Case, Sites
from fedstrata.support.errors import UserError, nearest

# Plain SGD at a constant rate, as PFLlib trains; the rate is chosen for each method.
TRAINING = (
    "train.epochs=1",
    "train.steps=null",
    "train.optimizer.momentum=0.0",
    "train.optimizer.weight_decay=0.0",
    "train.schedule=constant",
    "train.clip=null",
    "baselines.alone=false",
    "baselines.pooled=false",
    "keep_models=none",
    "strategy.bounds.norm_factor=null",  # nobody lies here, and updates of unlike sites differ much
    "data.seed=1",  # all seeds have the same sites
)
# With BatchNorm, a last batch of two or three windows can have a gradient that undoes all rounds.
CLIPPED = "train.clip=5.0"
NEEDS_NORMALIZATION = ("fedbn",)
# The methods for sites with different networks: benchmarks.heterogeneous compares them.
FOR_DIFFERENT_NETWORKS = ("fd", "fedproto", "fedtgp", "fedgh", "fedgen", "fml", "fedkd", "fedktl")


@dataclass(frozen=True)
class PersonalSet(Sites):
    """The data of sites, all with one task.

    Parameters
    ----------
    rounds : int
        Of each run.
    normalized : bool
        Whether the network has normalization, which some methods are about.
    peer_model : str or None
        PFLlib's name of the same network; None where it has none.
    weights : Path or None
        The file from which the frozen layers are, where there are any.
    """

    rounds: int = 0
    normalized: bool = True
    peer_model: str | None = None
    weights: Path | None = None


def har(root: Path, rounds: int | None = None) -> PersonalSet:
    """Return UCI HAR: 30 subjects, one task."""
    return _set(
        "har",
        "UCI HAR, 30 subjects, one task",
        "har",
        30,
        root,
        ("data.task=activity", "model=mlp_bn", "train.batch_size=16", CLIPPED),
        rounds or 50,
    )


def mnist(root: Path, rounds: int | None = None, every: int = 1) -> PersonalSet:
    """Return MNIST in the 20 shards (Dirichlet 0.1) that are published with PFLlib.

    ``every`` is of how many examples one is in the shards under ``root``.
    """
    thinned = "" if every == 1 else f", one of {every} examples"
    return _set(
        "mnist",
        f"MNIST, 20 shards, Dirichlet 0.1{thinned}",
        "medmnist",
        20,
        root,
        (
            "data.task=digit",
            "data.mean=[0.5]",
            "data.std=[0.5]",
            "model=fedavg_cnn",
            "model.head=[]",  # the experiment's hidden layer is none of PFLlib's network
            "train.batch_size=10",
        ),
        rounds or 20,
        normalized=False,
        peer_model="CNN",
    )


def cifar100(root: Path, rounds: int | None = None, sites: int = 20) -> PersonalSet:
    """Return CIFAR-100 as in the published tables: 20 sites, Dirichlet 0.1, 2,000 rounds, for a GPU."""
    return _set(
        "cifar100",
        f"CIFAR-100, {sites} sites, Dirichlet 0.1",
        "pflbench",
        sites,
        root,
        (
            "data.dataset=cifar100",
            "model=fedavg_cnn",
            "model.head=[]",
            "train.batch_size=10",
            "train.precision=float32",
        ),
        rounds or 2000,
        normalized=False,
        peer_model="CNN",
    )


def pacs(root: Path, weights: Path, rounds: int | None = None) -> PersonalSet:
    """Return PACS: 4 sites, one domain each; a head of two layers over ImageNet's SqueezeNet, frozen.

    ``weights`` is the file of SqueezeNet 1.1.
    """
    return _set(
        "pacs",
        "PACS, 4 sites, one domain each, head over a frozen SqueezeNet",
        "images",
        4,
        root,
        (
            "data.domains=true",
            "data.site_split.scheme=domain",
            "data.size=96",
            "model=squeezenet1_1",
            "model.head=[64]",
            "weights=file",
            f"weights.path={weights}",
            "groups.pretrained=[features]",
            "groups.common=['...']",
            "train.batch_size=10",
        ),
        rounds or 40,
        normalized=False,
        weights=weights,
    )


def faces(rounds: int | None = None, sites: int = 10, train: int = 100) -> PersonalSet:
    """Return drawn faces: one question, and a camera of its own at each site."""
    return _set(
        "faces",
        f"drawn faces, {sites} sites, one question",
        "faces",
        sites,
        None,
        (
            "data.tasks=[gender]",
            f"data.train={train}",
            "data.validation=40",
            "train.batch_size=10",
        ),
        rounds or 20,
    )


def _set(
    name: str,
    title: str,
    experiment: str,
    sites: int,
    root: Path | None,
    overrides: tuple[str, ...],
    rounds: int,
    *,
    normalized: bool = True,
    peer_model: str | None = None,
    weights: Path | None = None,
) -> PersonalSet:
    every = ("groups=all_common", *TRAINING, *overrides, f"strategy.rounds={rounds}")
    return PersonalSet(
        name, title, experiment, sites, root, every, rounds, normalized, peer_model, weights
    )


def cases(named: Sequence[str], existing: Sequence[str]) -> tuple[Case, ...]:
    """Return the methods that a command names: ``fedprox``, or ``fedprox:mu=0.1,...``.

    Raises
    ------
    UserError
        There is no such method, or one stands there twice.
    """
    made = []
    for text in named:
        method, _, options = text.partition(":")
        if method not in existing:
            raise UserError(f"no method {method!r}; there is {nearest(method, existing)}")
        chosen = [f"method.{option}" for option in options.split(",") if option]
        made.append(Case(text, (f"method={method}", *chosen)))
    if len(set(named)) < len(named):
        raise UserError("name each method once")
    return tuple(made)


def method_of(case: Case) -> str:
    """Return the method's own name."""
    return case.overrides[0].removeprefix("method=")
