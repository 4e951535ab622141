"""The bytes that deployed sites send and receive, counted on their TCP connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.wire_setups import Setup
from benchmarks.flower.deployment import ANY_PLAN, SuperLink, start_supernode, start_warm_site
from benchmarks.flower.processes import Processes
from benchmarks.flower.proxy import DIRECTIONS, Meter
from benchmarks.flower.round_ends import RoundEnds, our_rounds, watch_run
from benchmarks.flower.stock import start_stock_run, stock_summary
from benchmarks.report.outcome import mean_leading

ALONE = ("baselines.alone=false",)


@dataclass(frozen=True)
class SiteBytes:
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
        """Up and down together."""
        return self.up + self.down


def site_bytes(
    meters: Sequence[Meter], ended: Sequence[float], layers: Sequence[float]
) -> SiteBytes:
    """Return the bytes from the end of the first round to that of the last, a site and round.

    Of a run of one round, all of it. ``layers`` are the bytes of all sites' layers in each round.
    """
    # Before the end of the first round the app, introductions and start weights have passed, too.
    first = ended[0] if len(ended) > 1 else 0.0
    shares = len(meters) * max(len(ended) - 1, 1)
    up, down = (sum(m.between(first, ended[-1], way) for m in meters) for way in DIRECTIONS)
    alone = sum(layers[1:] or layers)
    return SiteBytes(up / shares, down / shares, alone / shares)


@dataclass(frozen=True)
class OurBytes:
    """What a deployment of ours sent.

    Parameters
    ----------
    cases : mapping of str to SiteBytes
        Of each case.
    accuracy : mapping of str to float
        Of each case, at the end of its rounds.
    before : float
        The mean over the sites of all bytes until the end of the first round of the first case:
        the app, introductions, the pre-trained checkpoint, and that round.
    """

    cases: Mapping[str, SiteBytes]
    accuracy: Mapping[str, float]
    before: float


@dataclass
class MeteredDeployment:
    """A SuperLink and some sites, each behind a meter."""

    setup: Setup
    folder: Path
    rounds: int

    def ours(self) -> OurBytes:
        """Run every case, one after the other in one `flwr run`, and return its bytes."""
        output = self.folder / "output"
        with self._connected() as (processes, superlink, meters):
            for index, (task, meter) in enumerate(zip(self.setup.tasks, meters, strict=True)):
                self._start_site(processes, index, task, meter)
            config = self._run_config(output)
            run = processes.flwr_run("run", superlink.name, config)
            ends = watch_run(processes, run, output, self._patience)
            return self._count(ends, meters, processes)

    def stock(self, data: Path) -> SiteBytes:
        """Run stock Flower's FedAvg over the npz files in ``data``; return its bytes."""
        output = self.folder / "output"
        with self._connected() as (processes, superlink, meters):
            for index, meter in enumerate(meters):
                own = {"data": data / f"{index}.npz"}
                start_supernode(processes, f"stock-{index}", meter.port, node_config=own)
            run = start_stock_run(
                processes,
                superlink,
                output,
                model=self.setup.stock,
                num_server_rounds=self.rounds,
                sites=len(meters),
            )
            processes.finish(run, seconds=self._patience)
            rounds, size = stock_summary(output, len(meters), processes.logs)
            # A site sends the model once, and receives it twice: to train and to evaluate.
            layers = 3 * len(meters) * size
            return site_bytes(meters, [each["ended"] for each in rounds], [layers] * len(rounds))

    @contextmanager
    def _connected(self) -> Iterator[tuple[Processes, SuperLink, list[Meter]]]:
        """Start a SuperLink, and a meter for each site."""
        with ExitStack() as stack:
            processes = stack.enter_context(Processes(self.folder))
            superlink = SuperLink(processes)
            superlink.start()
            meters = [stack.enter_context(Meter(superlink.fleet)) for _ in self.setup.tasks]
            yield processes, superlink, meters

    def _run_config(self, output: Path) -> dict[str, str]:
        fixed = (
            *self.setup.counted,
            f"strategy.rounds={self.rounds}",
            f"strategy.min_sites={len(self.setup.tasks)}",
            *ALONE,
        )
        sets = " ; ".join(" ".join((*fixed, *case.overrides)) for case in self.setup.cases)
        config = {"experiment": self.setup.experiment, "overrides": sets}
        config |= {"output-dir": str(output), "data-root": str(self.setup.root or "")}
        return {key: value for key, value in config.items() if value}

    def _count(self, ends: RoundEnds, meters: Sequence[Meter], processes: Processes) -> OurBytes:
        # The runs are in the order of the cases, and so are their first rounds.
        folders = sorted(ends, key=lambda folder: min(ends[folder].values()))
        if len(folders) != len(self.setup.cases):
            raise SystemExit(f"{len(folders)} runs of {self.setup.cases}:\n{processes.logs()}")
        found, accuracy = {}, {}
        for case, folder in zip(self.setup.cases, folders, strict=True):
            results, moments = our_rounds(
                {folder: ends[folder]}, case.name, len(meters), processes.logs
            )
            layers = [
                sum((*record["bytes_up"].values(), *record["bytes_down"].values()))
                for record in results["rounds"]
            ]
            found[case.name] = site_bytes(meters, moments, layers)
            accuracy[case.name] = mean_leading(results)
        first = min(ends[folders[0]].values())
        before = sum(meter.between(0, first, way) for meter in meters for way in DIRECTIONS)
        return OurBytes(found, accuracy, before / len(meters))

    def _start_site(self, processes: Processes, index: int, task: str, meter: Meter) -> None:
        place: dict[str, Any] = {"partition-id": index, "num-partitions": len(self.setup.tasks)}
        if self.setup.root is not None:
            place = {"data": str(self.setup.root)}
        start_warm_site(processes, f"site-{index}", meter.port, task=task, plan=ANY_PLAN, **place)

    @property
    def _patience(self) -> float:
        return 300.0 + 60.0 * self.rounds * (len(self.setup.cases) + 1)
