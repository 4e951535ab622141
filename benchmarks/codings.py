"""What each coding makes of one update: `python -m benchmarks.codings`.

Bytes, what is lost, and processor seconds, of the update of a ResNet-18 on drawn faces and of an MLP on
UCI HAR. Whole runs over real connections, with the accuracy, are in `benchmarks.wire`.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.report.command_line import add_data, make_parser
from benchmarks.report.tables import Table, write
from client_app.context import open_site
from client_app.node_config import read_node_settings
from client_app.round import exchanged_tensors, prepare_round
from client_app.store import MemoryStore
from fedstrata.protocol.codec import decode, encode
from fedstrata.protocol.codings import EXACT, BFloat16, Coding, Int8, LowBit, LowRank, TopK
from fedstrata.protocol.tensors import TensorSpec
from server_app.compose import compose
from strategies.config import plan_for

Tensors = Mapping[str, Tensor]
MEGABYTE = 10**6


def low_rank(energy: float, rank: int | None = None) -> LowRank:
    """Return the coding with one energy in all rounds, as conf/coding/lowrank.yaml has the rest."""
    return LowRank(energy_start=energy, energy_end=energy, rank=rank, least=1024)


CASES: Mapping[str, Coding] = {
    "exact": EXACT,
    "bfloat16": BFloat16(),
    "int8": Int8(per_channel=False),
    "2 bits": LowBit(bits=2, per_channel=True),
    "top 5 %": TopK(fraction=0.05, values="bfloat16", least=1024),
    "low rank, energy 0.95": low_rank(0.95),
    "low rank, energy 0.98": low_rank(0.98),
    "low rank, energy 0.98, rank at most 8": low_rank(0.98, 8),
}
FEW = ("exact", "low rank, energy 0.95")


@dataclass(frozen=True)
class Site:
    """A site whose update is coded: for people, its experiment, and what is changed there."""

    title: str
    experiment: str
    overrides: tuple[str, ...]


PLAIN = ("method=fedavg", "groups=all_common", "weights=none", "train.epochs=1", "train.steps=null")
FACES = Site(
    "drawn faces, ResNet-18",
    "faces_paper",
    ("data.tasks=[gender]", "data.train=256", "data.validation=4", "data.test=4", *PLAIN),
)
HAR = Site("UCI HAR, MLP", "har", ("data.task=activity", *PLAIN))
QUICK = Site(
    "drawn faces, small_cnn",
    "faces",
    ("model=small_cnn", "data.tasks=[gender]", "data.train=16", "data.size=28", *PLAIN),
)


@dataclass(frozen=True)
class Coded:
    """An update as it travels: bytes, the share of its norm that is lost, processor seconds."""

    size: int
    lost: float
    writing: float
    reading: float


def update_of(site: Site, root: Path | None = None) -> tuple[Tensors, Tensors]:
    """Return the exchanged tensors of a site's second round: as received, and trained."""
    plan = plan_for(compose(site.experiment, site.overrides), federation="codings", weights="")
    with tempfile.TemporaryDirectory() as folder:
        place = {"partition-id": 0, "num-partitions": 1, "state-dir": folder, "cache-dir": folder}
        if root is not None:
            place["data-root"] = str(root)
        context = open_site(read_node_settings(place, {}), plan)
        trained = {name: context.start[name] for name in exchanged_tensors(context)}
        for number in (1, 2):
            received = trained
            prepare_round(context, number, received, MemoryStore()).train()
            trained = exchanged_tensors(context)
    return received, trained


def coded(coding: Coding, received: Tensors, trained: Tensors) -> Coded:
    """Return what a coding makes of an update; statistics of BatchNorm do not count as lost."""
    schema = {name: TensorSpec.of(tensor) for name, tensor in received.items()}
    started = time.process_time()
    data, lost = encode(coding, trained, received, {})
    written = time.process_time()
    decode(data, schema, coding, max_magnitude=None)
    read = time.process_time()
    changed = {n: t - received[n] for n, t in trained.items() if "running" not in n}
    share = _norm(lost) / _norm(changed)
    return Coded(len(data), share, written - started, read - written)


def _norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))


def table(site: Site, found: Mapping[str, Coded]) -> Table:
    """Return the table of one site's update."""
    columns = ("coding", "MB", "times fewer", "lost, %", "writing, s", "reading, s")
    made = Table(f"One update: {site.title}", columns)
    for name, each in found.items():
        made.rows[name] = (
            f"{each.size / MEGABYTE:.3f}",
            f"{found['exact'].size / each.size:.1f}",
            f"{100 * each.lost:.1f}",
            f"{each.writing:.2f}",
            f"{each.reading:.2f}",
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Code both sites' updates, and write the tables."""
    parser = make_parser("codings", __doc__, quick="a small network, two codings")
    add_data(parser, "--har", "har.npz", "UCI HAR")
    options = parser.parse(arguments)
    torch.set_num_threads(1)
    sites: list[tuple[Site, Path | None]] = [(QUICK if options.quick else FACES, None)]
    if not options.quick and options.har is not None and options.har.exists():
        sites.append((HAR, options.har.resolve()))
    cases = {name: CASES[name] for name in (FEW if options.quick else CASES)}
    tables = []
    for site, root in sites:
        received, trained = update_of(site, root)
        found = {name: coded(each, received, trained) for name, each in cases.items()}
        tables.append(table(site, found))
    notes = [
        "The update of a site's second round, all layers common, each round one pass over its data. "
        "Lost: the norm of what the payload lacks over the norm of the change, which error feedback "
        "adds to the next update. BatchNorm's statistics travel exactly and are left out there.",
        "Processor seconds of one thread, once.",
        f"{os.cpu_count()} cores; one is used.",
    ]
    write(options.output, "codings", tables, command=options.command, notes=notes)


if __name__ == "__main__":
    main()
