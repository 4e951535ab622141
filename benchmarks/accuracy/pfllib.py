"""PFLlib (Zhang et al., JMLR 2025) on the same shards: its own process, read by what it prints.

Nothing of it is copied. Its command line is documented in its ``system/main.py``; data are the files
``dataset/<name>/{train,test}/<client>.npz`` beside the folder in which it runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.accuracy.study import load_or_make
from models.training.data import SiteData, Split

NAMES: Mapping[str, str] = {
    "local": "Local",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedper": "FedPer",
    "lg_fedavg": "LG-FedAvg",
    "fedbn": "FedBN",
    "fedrep": "FedRep",
    "ditto": "Ditto",
    "per_fedavg": "PerAvg",
    "fedala": "FedALA",
    "fedcp": "FedCP",
    "gpfl": "GPFL",
    "dbe": "FedDBE",
    "scaffold": "SCAFFOLD",
    "moon": "MOON",
    "apfl": "APFL",
}
"""Our methods, and PFLlib's names of them."""

Flags = Mapping[str, Mapping[str, tuple[str, float]]]
# Its defaults switch some of its methods off (mu, kappa and lambda of 0, alpha of 1), so each gets our
# hyper-parameters: by ours, its option, and the factor between the two numbers.
FLAGS: Flags = {
    "fedprox": {"mu": ("-mu", 1)},
    "fedrep": {"head_epochs": ("-pls", 1)},
    "ditto": {"pull": ("-mu", 1)},
    "fedala": {
        "rate": ("-et", 1),
        "share": ("-s", 100),  # in per cent
        "layers": ("-p", 2),  # in tensors: weight and bias
    },
    "fedcp": {"weight": ("-lam", 1)},
    "gpfl": {"magnitude": ("-lam", 1), "decay": ("-mu", 1)},
    "dbe": {"kappa": ("-klw", 1), "momentum": ("-mo", 1)},
    "moon": {"mu": ("-mu", 1), "temperature": ("-tau", 1)},
    "apfl": {"alpha": ("-al", 1)},
}
NOTE = (
    "PFLlib plays one run. It seeds torch alone and draws the order of its clients without a seed, so "
    "another run of it differs. It has the same training and test examples, rate, "
    "batch size, passes and rounds; it leaves out the last batch where it is not full, and gets no "
    "validation data."
)
SHUFFLE = 1  # seed of the order in which the libraries get a site's examples
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
_ACCURACY = re.compile(r"^Averaged Test Accuracy: ([0-9.]+)", re.MULTILINE)
# Some of the libraries' servers leave out the words.
_SECONDS = re.compile(r"^-{10,}(?: time cost -+)? ([0-9.eE+-]+)$", re.MULTILINE)


class PeerFailed(RuntimeError):
    """PFLlib has no such method, or its run did not end; the text says where the log is."""


@dataclass(frozen=True)
class Wanted:
    """One run of PFLlib.

    Parameters
    ----------
    data : str
        Name of the set.
    model : str
        PFLlib's name of the network.
    method : str
        Ours.
    rate : float
        Learning rate.
    batch_size, epochs, rounds : int
        As ours.
    options : mapping
        The method's hyper-parameters, as ours.
    """

    data: str
    model: str
    method: str
    rate: float
    batch_size: int
    epochs: int
    rounds: int
    options: Mapping[str, Any]

    def flags(self, known: Flags = FLAGS) -> list[str]:
        """Return the method's own options on the library's command line, of those in ``known``."""
        flags = []
        for key, (flag, factor) in known.get(self.method, {}).items():
            flags += [flag, f"{float(self.options[key]) * factor:g}"]
        return flags


@dataclass(frozen=True)
class Played:
    """What PFLlib printed.

    Parameters
    ----------
    curve : list of float
        Accuracy over all test examples after each round.
    seconds : float
        The median of a round, its evaluation included.
    command : list of str
        Its options.
    """

    curve: list[float]
    seconds: float
    command: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Peer:
    """A checkout of PFLlib, and the Python of its environment."""

    checkout: Path
    python: Path = field(default_factory=lambda: Path(sys.executable))
    device: str = "cpu"  # or cuda
    library: ClassVar[str] = "PFLlib"
    names: ClassVar[Mapping[str, str]] = NAMES
    known_flags: ClassVar[Flags] = FLAGS
    note: ClassVar[str] = NOTE

    def play(self, wanted: Wanted, sites: Sequence[SiteData], work: Path) -> Played:
        """Return what the library reaches on the sites' training and test data; a finished run is kept.

        Raises
        ------
        PeerFailed
            It has no such method, or its run did not end.
        """
        if wanted.method not in self.names:
            raise PeerFailed(f"it has no method that is {wanted.method}")
        data = [(site.train.inputs.digest(), site.test.inputs.digest()) for site in sites]
        made = load_or_make(
            work / "finished",
            [
                asdict(wanted),
                self.names[wanted.method],
                wanted.flags(self.known_flags),
                data,
                SHUFFLE,
            ],
            lambda: self._run(wanted, sites, work).to_dict(),
        )
        return Played(made["curve"], made["seconds"], made["command"])

    def command(self, wanted: Wanted, sites: Sequence[SiteData]) -> list[str]:
        """Return the command of a run."""
        options = {
            "-data": dataset_name(wanted.data, sites[0]),
            "-ncl": len(sites[0].classes),
            "-m": wanted.model,
            "-algo": self.names[wanted.method],
            "-gr": wanted.rounds,
            "-lbs": wanted.batch_size,
            "-lr": wanted.rate,
            "-ls": wanted.epochs,
            "-nc": len(sites),
            "-dev": self.device,
        }
        words = [str(word) for pair in options.items() for word in pair]
        return [str(self.python), *self.program(), *words, *wanted.flags(self.known_flags)]

    def program(self) -> list[str]:
        """Return what Python runs."""
        return [str(self.checkout / "system" / "main.py")]

    def _run(self, wanted: Wanted, sites: Sequence[SiteData], work: Path) -> Played:
        folder = work / wanted.data
        write_shards(folder / "dataset" / dataset_name(wanted.data, sites[0]), sites)
        (folder / "system").mkdir(exist_ok=True)
        log = folder / f"{wanted.method}.log"
        command = self.command(wanted, sites)
        with log.open("w") as opened:
            ended = subprocess.run(
                command,
                cwd=folder / "system",
                stdout=opened,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # The log shows the rounds as they end. Some files of its own are pickled networks.
                env={**os.environ, **ENVIRONMENT},
                check=False,
            )
        curve, each = read_output(log.read_text(errors="replace"))
        # It evaluates before each of its rounds, of which it plays one more: the first is the start.
        if ended.returncode or len(curve) != wanted.rounds + 1:
            raise PeerFailed(
                f"its run ended with {ended.returncode} after {max(0, len(curve) - 1)} of "
                f"{wanted.rounds} rounds; see {log.parent.name}/{log.name} in --work"
            )
        options = command[1 + len(self.program()) :]
        return Played(curve[1:], float(np.median(each[1:])), options)


class FinishedPeer(Peer):
    """Plays nothing: what is not finished has no figures."""

    def _run(self, wanted: Wanted, sites: Sequence[SiteData], work: Path) -> Played:
        raise PeerFailed("not played")


def read_output(text: str) -> tuple[list[float], list[float]]:
    """Return the accuracy and the seconds of each round that a run printed.

    Ditto prints two accuracies a round, of the averaged and then of the personal models; the last is
    that of the models that predict.
    """
    accuracies, seconds, start = [], [], 0
    for ended in _SECONDS.finditer(text):
        found = _ACCURACY.findall(text, start, ended.start())
        if found:
            accuracies.append(float(found[-1]))
            seconds.append(float(ended[1]))
        start = ended.end()
    return accuracies, seconds


def dataset_name(name: str, site: SiteData) -> str:
    """Return a name from which PFLlib knows how many channels and pixels there are."""
    known: dict[tuple[int, ...], str] = {
        (1, 28, 28): "MNIST",
        (3, 32, 32): "Cifar10",
        (3, 64, 64): "TinyImagenet",
    }
    if site.input_shape not in known:
        raise PeerFailed(f"it has no network for inputs of {site.input_shape}")
    return f"{known[site.input_shape]}-{name}"


def write_shards(folder: Path, sites: Sequence[SiteData]) -> None:
    """Write training and test examples as PFLlib reads them: an array of one dict a file.

    They are shuffled, as the libraries' own files are: HtFLlib takes them in the order of the file, and
    in the order of a pool most of its batches would have one class.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for side in ("train", "test"):
        (folder / side).mkdir(parents=True)
        for number, site in enumerate(sites):
            data = _arrays(getattr(site, side), np.random.default_rng((SHUFFLE, number)))
            np.savez(folder / side / f"{number}.npz", data=np.array(data, dtype=object))


def _arrays(split: Split, generator: np.random.Generator) -> dict[str, Any]:
    rows = generator.permutation(len(split))
    return {"x": split.inputs.batch(rows).numpy(), "y": split.labels[rows]}
