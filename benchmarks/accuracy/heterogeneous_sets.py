"""The sites whose networks differ: two data sets, each split in two ways, four networks in turn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy.heterogeneous_data import har_split, mnist_pool
from benchmarks.accuracy.personalised_sets import CLIPPED, TRAINING, PersonalSet
from client_app.data.site_split import SiteSplit

SITES = 8  # two of each network
SCHEMES = ("dirichlet", "pathological")
ALPHA, SMALLEST = 0.1, 40
CLASSES_PER_SITE = {"har": 2, "mnist": 3}  # so that each class has a site
EVERY_WINDOW, EVERY_PICTURE = 4, 20
OF_PICTURES = ("fedktl",)  # methods that need pictures
SMALL_CNNS = ("small_cnn", "fedavg_cnn", "resnet4", "resnet6")
HTFE2 = "HtFE-img-2"  # HtFLlib's name of the mix `htfe2`
# The last layer is what lg_fedavg shares: it alone has the same shape everywhere.
LAST_LAYER = {"lg_fedavg": ("method.common=[head.out]",)}


@dataclass(frozen=True)
class HeterogeneousSet(PersonalSet):
    """Sites with different networks.

    Parameters
    ----------
    pictures : bool
        Whether the inputs are pictures.
    """

    pictures: bool = True


def har(source: Path, work: Path, scheme: str, rounds: int | None = None) -> HeterogeneousSet:
    """Return UCI HAR, pooled and split anew, with four perceptrons."""
    split = _split("har", scheme)
    path = har_split(source, work, split, SITES, EVERY_WINDOW)
    subjects = ",".join(str(number) for number in range(1, SITES + 1))
    return _set(
        f"har-{scheme}",
        f"UCI HAR, one of {EVERY_WINDOW} windows, {SITES} sites, {named(split)}, four perceptrons",
        "har",
        path,
        (
            "data.task=activity",
            f"data.subjects=[{subjects}]",
            "data.duplicates=keep",
            "models=mlp4",
            "model.head=[32]",
        ),
        rounds or 30,
        pictures=False,
    )


def mnist(source: Path, work: Path, scheme: str, rounds: int | None = None) -> HeterogeneousSet:
    """Return MNIST, pooled and split anew, with four small CNNs."""
    split = _split("mnist", scheme)
    networks = [f"+model@models.{name}={name}" for name in SMALL_CNNS]
    return _set(
        f"mnist-{scheme}",
        f"MNIST, one of {EVERY_PICTURE} pictures, {SITES} sites, {named(split)}, four small CNNs",
        "medmnist",
        mnist_pool(source, work, EVERY_PICTURE),
        (*_pictures(split), *networks, "model.head=[64]"),
        rounds or 20,
    )


def htfe2(source: Path, work: Path, scheme: str, rounds: int | None = None) -> HeterogeneousSet:
    """Return MNIST in color at 32x32, with the two networks that HtFLlib has as well."""
    split = _split("mnist", scheme)
    return _set(
        f"htfe2-{scheme}",
        f"MNIST at 3x32x32, one of {EVERY_PICTURE} pictures, {SITES} sites, {named(split)}, "
        "FedAvg's CNN and ResNet-18",
        "medmnist",
        mnist_pool(source, work, EVERY_PICTURE),
        # All end in 512 features by themselves.
        (*_pictures(split, 3), "data.size=32", "models=htfe2", "model.head=[]"),
        rounds or 20,
        peer_model=HTFE2,
    )


def faces(rounds: int | None = None, sites: int = 4) -> HeterogeneousSet:
    """Return a few drawn faces, for a quick look."""
    networks = [f"+model@models.{name}={name}" for name in SMALL_CNNS]
    few = ("data.tasks=[gender]", "data.size=28", "data.train=24", "data.validation=16")
    return _set(
        "faces",
        f"drawn faces, {sites} sites, one question, four small CNNs",
        "faces",
        None,
        (*few, "data.test=24", *networks, "model.head=[64]"),
        rounds or 2,
        sites=sites,
    )


def named(split: SiteSplit) -> str:
    """Return a split in words."""
    if split.scheme == "pathological":
        return f"{split.classes_per_site} classes a site"
    return f"Dirichlet {split.alpha:g}"


def _split(data: str, scheme: str) -> SiteSplit:
    return SiteSplit(scheme, ALPHA, SMALLEST, CLASSES_PER_SITE[data], None)


def _pictures(split: SiteSplit, channels: int = 1) -> tuple[str, ...]:
    chosen = {key: value for key, value in asdict(split).items() if value is not None}
    return (
        "data.task=digit",
        f"data.channels={channels}",
        f"data.mean={[0.5] * channels}".replace(" ", ""),
        f"data.std={[0.5] * channels}".replace(" ", ""),
        *(f"data.site_split.{key}={value}" for key, value in chosen.items()),
    )


def _set(
    name: str,
    title: str,
    experiment: str,
    root: Path | None,
    overrides: tuple[str, ...],
    rounds: int,
    *,
    pictures: bool = True,
    sites: int = SITES,
    peer_model: str | None = None,
) -> HeterogeneousSet:
    every = (
        *("groups=all_common", "weights=none"),
        *TRAINING,
        CLIPPED,  # with BatchNorm, a last batch of two can have a gradient that undoes all rounds
        "train.batch_size=10",
        *overrides,
        f"strategy.rounds={rounds}",
    )
    return HeterogeneousSet(
        *(name, title, experiment, sites, root, every, rounds),
        peer_model=peer_model,
        pictures=pictures,
    )
