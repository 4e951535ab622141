"""How many bytes a site sends and is sent: `python -m benchmarks.wire --har /data/har.npz`.

Stock Flower's FedAvg of the whole model, and ours with each coding of the exchanged groups: real
processes over real sockets, each byte counted on the TCP connection between a site and the SuperLink.
Beside them the accuracy after equally many rounds, from Flower's simulation of all sites. ``--quick``
plays two rounds of one site with seeded measurements, whose accuracy says nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.deployment import (
    draw,
    our_rounds,
    start_warm_site,
    stock_rounds,
    submit_stock,
    watch,
)
from benchmarks.flower.processes import Processes, SuperLink, start_supernode
from benchmarks.flower.proxy import DOWN, UP, Proxy
from benchmarks.flower.simulator import Simulator
from benchmarks.report.command_line import (
    at_least,
    check_data,
    command_of,
    output_of,
    with_data,
    with_places,
)
from benchmarks.report.outcome import mean_accuracy
from benchmarks.report.tables import Figure, Table, times, write
from benchmarks.simulate import draw_measurements
from server_app.compose import compose

STOCK = "whole model, stock Flower FedAvg"
WAYS = (UP, DOWN)
MEGABYTE = 1e6
GROUPS = ("common", "task")
ACCURACY = "accuracy, %"
SETS = ("faces", "har")
MADE_WITH = ("command", "versions", "machine")
ALONE = ("baselines.alone=false",)


def coded(name: str, coding: str, *options: str, groups: Sequence[str] = GROUPS) -> Case:
    """Return a case in which ``groups`` travel so, both ways."""
    places = [f"strategy.{way}.{group}" for way in ("coding", "coding_down") for group in groups]
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
        "faces",
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


@dataclass
class Meter(Proxy):
    """A line between a site and the SuperLink that notes how many bytes passed, and when."""

    passed: list[tuple[str, float, int]] = field(default_factory=list)

    def passing(self, way: str) -> Callable[[bytes], object]:
        """Return what counts the pieces of a new connection."""
        return lambda data: self.passed.append((way, time.time(), len(data)))

    def between(self, start: float, end: float, way: str) -> int:
        """Return the bytes that passed in ``way`` from ``start`` to ``end``, seconds of the clock."""
        return sum(size for w, when, size in list(self.passed) if w == way and start < when <= end)


@dataclass(frozen=True)
class Counted:
    """Bytes of a site and round, the mean over the sites and the rounds that count.

    Parameters
    ----------
    up, down : float
        From the site, and to it.
    layers : float
        Of both, those of the layers alone.
    """

    up: float
    down: float
    layers: float

    @property
    def both(self) -> float:
        """Both ways."""
        return self.up + self.down


def counted(meters: Sequence[Meter], ended: Sequence[float], layers: Sequence[float]) -> Counted:
    """Return what passed from the end of the first round to that of the last, a site and round.

    Of a run of one round, all of it. ``layers`` are the bytes of all sites' layers in each round.
    """
    first = ended[0] if len(ended) > 1 else 0.0
    shares = len(meters) * max(len(ended) - 1, 1)
    up, down = (sum(m.between(first, ended[-1], way) for m in meters) for way in WAYS)
    alone = sum(layers[1:] or layers)
    return Counted(up / shares, down / shares, alone / shares)


@dataclass
class Deployment:
    """A SuperLink and some sites, each behind a meter."""

    setup: Setup
    folder: Path
    rounds: int

    def ours(self) -> tuple[dict[str, Counted], dict[str, float], float]:
        """Play every case in turn; return its bytes and accuracy, and what came before.

        The last is the mean over the sites of all bytes until the first round of the first case
        has ended: the app, introductions, the pre-trained checkpoint, and that round.
        """
        output = self.folder / "output"
        with ExitStack() as stack:
            processes = stack.enter_context(Processes(self.folder))
            superlink = SuperLink(processes)
            superlink.start()
            meters = [stack.enter_context(Meter(superlink.fleet)) for _ in self.setup.tasks]
            for index, (task, meter) in enumerate(zip(self.setup.tasks, meters, strict=True)):
                self._start_site(processes, index, task, meter)
            fixed = (
                *self.setup.counted,
                f"strategy.rounds={self.rounds}",
                f"strategy.min_sites={len(meters)}",
                *ALONE,
            )
            sets = " ; ".join(" ".join((*fixed, *case.overrides)) for case in self.setup.cases)
            told = {"experiment": self.setup.experiment, "overrides": sets}
            told |= {"output-dir": str(output), "data-root": str(self.setup.root or "")}
            run = processes.flwr_run("run", superlink.name, {k: v for k, v in told.items() if v})
            ended = watch(processes, run, output, self._patience)
            folders = sorted(ended, key=lambda folder: min(ended[folder].values()))
            if len(folders) != len(self.setup.cases):
                raise SystemExit(f"{len(folders)} runs of {self.setup.cases}:\n{processes.logs()}")
            found, accuracy = {}, {}
            for case, folder in zip(self.setup.cases, folders, strict=True):
                results, moments = our_rounds(
                    {folder: ended[folder]}, case.name, len(meters), processes.logs
                )
                layers = [
                    sum((*each["bytes_up"].values(), *each["bytes_down"].values()))
                    for each in results["rounds"]
                ]
                found[case.name] = counted(meters, moments, layers)
                accuracy[case.name] = mean_accuracy(results)
            first = min(ended[folders[0]].values())
            before = sum(m.between(0, first, way) for m in meters for way in WAYS) / len(meters)
            return found, accuracy, before

    def stock(self, data: Path) -> Counted:
        """Play stock Flower's FedAvg over the npz files in ``data``; return its bytes."""
        output = self.folder / "rounds.json"
        with ExitStack() as stack:
            processes = stack.enter_context(Processes(self.folder))
            superlink = SuperLink(processes)
            superlink.start()
            meters = [stack.enter_context(Meter(superlink.fleet)) for _ in self.setup.tasks]
            for index, meter in enumerate(meters):
                told = {"data": data / f"{index}.npz"}
                start_supernode(processes, f"stock-{index}", meter.port, node_config=told)
            run = submit_stock(
                processes,
                superlink,
                output,
                model=self.setup.stock,
                num_server_rounds=self.rounds,
                sites=len(meters),
            )
            processes.finish(run, seconds=self._patience)
            clock = time.time() - time.monotonic()
            rounds = stock_rounds(output, len(meters), processes.logs)
            # A site sends the model once, and is sent it to train and to evaluate.
            layers = 3 * len(meters) * json.loads(output.read_text())["model"]
            ended = [clock + each["ended"] for each in rounds]
            return counted(meters, ended, [layers] * len(rounds))

    def _start_site(self, processes: Processes, index: int, task: str, meter: Meter) -> None:
        place: dict[str, Any] = {"partition-id": index, "num-partitions": len(self.setup.tasks)}
        if self.setup.root is not None:
            place = {"data": str(self.setup.root)}
        start_warm_site(processes, f"site-{index}", meter.port, task=task, **place)

    @property
    def _patience(self) -> float:
        return 300.0 + 60.0 * self.rounds * (len(self.setup.cases) + 1)


def pretrained(path: Path) -> Path:
    """Write a ResNet-18 without its head, as it is drawn at random, and return ``path``."""
    import torch

    from models import weights
    from models.networks import build

    torch.manual_seed(1)
    network = build("resnet18", input_shape=(3, 64, 64), classes=2, head=[128, 64])
    body = {n: t for n, t in network.state_dict().items() if not n.startswith("head")}
    weights.save(path, body, {})
    return path


def table(
    setup: Setup, bytes_: Mapping[str, Counted], accuracy: Mapping[str, Figure | None]
) -> Table:
    """Return bytes of every case beside those of the whole model, and accuracy beside exact layers."""
    made = Table(
        f"A site and round: {setup.title}",
        (
            "case",
            "MB up",
            "MB down",
            "MB both",
            "layers alone",
            "both / layers",
            "times fewer",
            ACCURACY,
            "against exact",
        ),
    )
    whole, best = bytes_[STOCK], accuracy.get(EXACT.name)
    for case, found in bytes_.items():
        mine = accuracy.get(case)
        points = (
            f"{100 * (mine.mean - best.mean):+.2f}" if mine and best and case != EXACT.name else "-"
        )
        made.rows[case] = (
            *(
                f"{size / MEGABYTE:.3f}"
                for size in (found.up, found.down, found.both, found.layers)
            ),
            f"{found.both / found.layers:.2f}",
            "-" if case == STOCK else f"{whole.both / found.both:.1f}",
            mine,
            points,
        )
    return made


def measured(setup: Setup, told: argparse.Namespace) -> dict[str, Figure | None]:
    """Return the accuracy of every case after equally many rounds, over the seeds."""
    study = Study("wire", setup.experiment, setup.sites, setup.root, ALONE, tuple(told.seeds))
    cases = [Case(STOCK, setup.whole), *setup.cases]
    with Simulator(told.work.resolve()) as simulator:
        played = study.play(simulator, cases)
    return {
        name: Figure(tuple(mean_accuracy(results) for results in each))
        for name, each in played.items()
    }


def measured_before(
    results: Path,
) -> tuple[dict[str, Figure | None], dict[str, Any] | None]:
    """Return the accuracy of every case that the JSON file ``results`` has, and what it was made with.

    Nothing without a file.
    """
    if not results.exists():
        return {}, None
    told = json.loads(results.read_text())
    cells = {case: row[ACCURACY] for case, row in told["tables"][0]["rows"].items()}
    made_with = told.get("accuracy_from") or {each: told[each] for each in MADE_WITH}
    return (
        {case: cell and Figure(tuple(cell["values"])) for case, cell in cells.items()},
        made_with,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, measure, and write a table for each set of data."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    rounds_told = "counted; the first is left out"
    parser.add_argument("--rounds", type=at_least(2), default=4, help=rounds_told)
    parser.add_argument(
        "--bytes-only",
        action="store_true",
        help="no simulation: the accuracy is that of the results that are there, or none",
    )
    parser.add_argument("--quick", action="store_true", help="one site, two rounds, few codings")
    parser.add_argument("--sets", nargs="+", choices=SETS, help="faces, and har where it is there")
    with_data(parser, "--har", "har.npz", "UCI HAR")
    told = with_places(parser).parse_args(given)
    if "har" in (told.sets or ()) or told.har != parser.get_default("har"):
        check_data(parser, told, ["--har"])
    there = told.har is not None and told.har.exists()
    sets = told.sets or (SETS if there else SETS[:1])
    rounds = 2 if told.quick else told.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if told.quick:
            measurements = folder / "har.npz"
            draw_measurements(measurements, 1)
            setups = [quick(measurements)]
        else:
            body = pretrained(folder / "body.safetensors")
            setups = [faces(body) if each == "faces" else har(told.har.resolve()) for each in sets]
        for setup in setups:
            play(setup, folder / setup.name, rounds, told, command_of("benchmarks.wire", given))


def play(setup: Setup, folder: Path, rounds: int, told: argparse.Namespace, command: str) -> None:
    """Count and measure one set of data, and write what was found."""
    config = compose(setup.experiment, setup.counted)
    draw(config, len(setup.tasks), setup.root, folder / "data")
    stock = Deployment(setup, folder / "stock", 1 if told.quick else rounds)
    with ThreadPoolExecutor() as pool:  # side by side: but for polling, bytes do not depend on it
        counting = pool.submit(stock.stock, folder / "data")
        bytes_, deployed, before = Deployment(setup, folder / "ours", rounds).ours()
        bytes_ = {STOCK: counting.result(), **bytes_}
    simulated = not (told.quick or told.bytes_only)
    accuracy: Mapping[str, Figure | None]
    accuracy_from: Mapping[str, Any] | None = None
    if simulated:
        accuracy = measured(setup, told)
    elif told.quick:
        accuracy = {case: Figure((value,)) for case, value in deployed.items()}
    else:
        before_ = output_of(told) / f"wire-{setup.name}.json"
        accuracy, accuracy_from = measured_before(before_)
    which = (
        "its only round of stock Flower, the second of ours"
        if told.quick
        else (f"{rounds - 1} of {rounds} rounds, without the first")
    )
    when = "" if simulated else ", measured before the bytes (`accuracy_from` in the JSON file)"
    simulated_ = (
        f"Accuracy{when}: mean over {setup.sites} simulated sites after the rounds of the experiment, "
        "the same for all, which train as the experiment does; the whole model's is that of FedAvg in "
        "this app, whose mean is Flower's but for rounding."
    )
    deployed_ = "Accuracy: of the deployed sites after two rounds, which says nothing."
    notes = [
        "Bytes on the TCP connection between a site and the SuperLink, without TLS, mean over "
        f"{times(len(setup.tasks), 'deployed site')} and {which}: layers, and all that Flower and "
        "we send besides (plans, reports, polling). Stock Flower sends a site two messages a round, each "
        "with the whole model, and is sent it once; ours one message, and one more after the last round, "
        "which is not counted. Stock Flower and ours ran side by side, once. Layers alone: the coded "
        "layers as Flower's arrays hold them, which no protocol can do without. Before and in "
        f"the first round {before / MEGABYTE:.2f} MB passed a site of ours, which is not in the table: "
        "the app, introductions, the pre-trained checkpoint where there is one, and the first round of "
        "the exact case.",
        deployed_ if told.quick else simulated_ if accuracy else "Accuracy was not measured.",
    ]
    more: dict[str, Any] = {
        "bytes": {c: [found.up, found.down, found.layers] for c, found in bytes_.items()},
        "before": before,
    }
    if accuracy_from is not None:
        more["accuracy_from"] = accuracy_from
    write(
        output_of(told),
        f"wire-{setup.name}",
        [table(setup, bytes_, accuracy)],
        command=command,
        notes=notes,
        more=more,
    )


if __name__ == "__main__":
    main()
