"""How long a round of deployed sites takes: `python -m benchmarks.rounds`.

Stock Flower (FedAvg as its PyTorch quickstart writes it), ours with a process per message, and ours with
the site's warm process. The last also with layers that travel in 8 bits a value, and with training in
bfloat16 besides. NVFlare's FedAvg on request (`--peers nvflare`). The cases run one after the other,
several times, on one machine over real sockets.

Three sites, ResNet-18 at 64x64, 256 training pictures a site, training and evaluation. A round lasts
from the end of the round before to its own end; ours ends with its checkpoint on the disk.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.flower.site_data import write_site_data
from benchmarks.measure.deployed_rounds import (
    BRIEF,
    BY_NAME,
    CASES,
    DATA,
    NVFLARE,
    PEERS,
    SITES,
    SIZE,
    STOCK,
    TEST,
    TRAIN,
    TRAIN_QUICK,
    WARM,
    Deployment,
    Timing,
)
from benchmarks.measure.limits import Limits, limits, operations
from benchmarks.measure.turns import in_turn, median_of
from benchmarks.peers.environment import Found, add_peers, find_peers
from benchmarks.report.command_line import add_repeat, at_least, check_compiled, make_parser
from benchmarks.report.tables import Table, times, write
from models.networks import build
from server_app.compose import compose

NOTE = (
    "What the server writes is in it: a checkpoint and results.json for ours, nothing for stock. "
    "Working is the slowest site's time, as it reports it, from loading the received layers to the "
    "end of training and evaluation, with the data read and the network built before; for ours with "
    "a check for values that are not finite. Waiting is the rest: polling, starting processes, "
    "importing, reading data, building the network, coding and moving layers, for ours also saving "
    "what stays at the site. Both train and evaluate alike, but ours sends a site one message a round "
    "(it evaluates the received model, then trains it) and stock Flower two (it trains, then evaluates "
    "the average). Ours sends each site one more message after the last round, to measure the final "
    "model, which is in no round here. Every process has one thread of its own. The server's memory is "
    "the most that its processes (SuperLink, SuperExec and ServerApp) had at one time from the command "
    "on; what they share is counted once (PSS), and of what sites share with them a part."
)
NVFLARE_NOTE = (
    "NVFlare: its server and a process a site, provisioned, with TLS and a certificate for each side; "
    "the controller FedAvg, the Client API within the site's job process, layers in float32 as NumPy "
    "arrays, which is its default. A site evaluates the received model, then trains it, with the loops "
    "of stock Flower's app. A round ends when the average is saved, as the server's log says. Its job "
    "processes start with the job and stay. Working is as above; the server's memory is that of its two "
    "processes, the server and the job."
)
SECURITY = {
    False: "Flower's cases, stock and ours, have no TLS.",
    True: "Flower's cases, stock and ours, have TLS and a registered key for each site.",
}


def least_operations(sites: int, train: int = TRAIN) -> float:
    """Return the floating point operations of a round: of training and of the test data."""
    network = build("resnet18", input_shape=(3, SIZE, SIZE), classes=2, head=())
    pictures = torch.zeros(2, 3, SIZE, SIZE)
    with torch.no_grad():
        forward = operations(lambda: network(pictures))
    both = operations(lambda: network(pictures).sum().backward())
    return sites * (train * both + TEST * forward) / 2


def table(
    found: Mapping[str, Sequence[Timing]],
    at_best: Mapping[str, float],
    sites: int = SITES,
    train: int = TRAIN,
) -> Table:
    """Return the medians, and how many times less each case waits than stock Flower.

    ``at_best`` has the seconds that the arithmetic alone takes, by the dtype that a case trains in.
    """
    made = Table(
        f"A round of {times(sites, 'deployed site')}, ResNet-18 at {SIZE}x{SIZE}, {train} pictures each",
        (
            "case",
            "seconds a round",
            "at best",
            "this / at best",
            "working",
            "waiting",
            "less waiting than stock",
            "server, MB",
        ),
    )
    stock = median_of(found.get(STOCK, ()), lambda timing: timing.waited)
    for case, timings in found.items():
        seconds = median_of(timings, lambda timing: timing.seconds)
        worked = median_of(timings, lambda timing: timing.worked)
        waited = median_of(timings, lambda timing: timing.waited)
        least = at_best["bfloat16" if case == BRIEF else "float32"]
        made.rows[case] = (
            f"{seconds:.1f}",
            f"{least:.1f}",
            f"{seconds / least:.1f}",
            f"{worked:.1f}",
            f"{waited:.1f}",
            "-" if case == STOCK or STOCK not in found else f"{stock / waited:.1f} times",
            f"{max(timing.memory for timing in timings) / 1e6:.0f}",
        )
    return made


@dataclass(frozen=True)
class Extent:
    """How much is measured: cases, sites, rounds of a run, runs of a case, pictures of a site."""

    cases: tuple[str, ...] = CASES
    sites: int = SITES
    rounds: int = 4
    repeat: int = 2
    train: int = TRAIN
    quick: bool = False
    tls: bool = False
    peers: Mapping[str, Found] = field(default_factory=dict)  # where they are installed

    @classmethod
    def of(cls, options: argparse.Namespace) -> Extent:
        """Return what the command line asks for."""
        peers = tuple(PEERS[name] for name in options.peers)
        more = {"tls": options.tls, "peers": options.found}
        if options.quick:
            return cls((STOCK, WARM, *peers), 1, 1, 1, TRAIN_QUICK, True, **more)
        cases = tuple(BY_NAME[name] for name in dict.fromkeys(options.cases))
        return cls((*cases, *peers), rounds=options.rounds, repeat=options.repeat, **more)


def measure(extent: Extent, folder: Path) -> dict[str, list[Timing]]:
    """Run the cases in turn, or side by side for a quick look; return the timings of each."""
    config = compose("faces_paper", (*DATA, f"data.train={extent.train}"))
    write_site_data(config, extent.sites, None, folder / "data")

    pythons = {PEERS[name]: each.python for name, each in extent.peers.items()}

    def once(case: str, number: int) -> list[Timing]:
        place, data = folder / f"{number}-{extent.cases.index(case)}", folder / "data"
        size = (extent.rounds, data, extent.sites, extent.train)
        found = Deployment(case, place, *size, extent.tls, pythons.get(case)).run()
        shown = [f"{t.seconds:.1f} s ({t.waited:.1f} waiting)" for t in found]
        print(case, shown, flush=True)
        return found

    runs = in_turn(extent.cases, extent.repeat, once, side_by_side=extent.quick)
    return {case: [timing for run in each for timing in run] for case, each in runs.items()}


def notes(extent: Extent, least: float, machine: Sequence[Limits]) -> list[str]:
    """Return what the reader of the table must know; ``least`` are the operations of a round."""
    counted = (
        f"Medians over {times(extent.rounds - 1, 'round')} of {times(extent.repeat, 'run')} a case, "
        "without each run's first round (imports, the first look at the data). A round lasts from the "
        "end of the one before to its own."
    )
    if extent.quick:
        counted = (
            "The only round of each case, from the command on and side by side: no figures to keep."
        )
    nvflare = [NVFLARE_NOTE] if NVFLARE in extent.cases else []
    said = " ".join([counted, NOTE, *nvflare, SECURITY[extent.tls]])
    return [
        f"{said} At best: the {least / 1e9:.0f} GFLOP of all sites' training and test "
        "data, with each convolution as it is defined, at the rate of a large matrix product on all "
        "cores; fast convolutions need fewer. " + " ".join(each.describe() for each in machine)
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    quick_help = "one site, one batch, one round, two cases (and --peers) side by side"
    parser = make_parser("rounds", __doc__, quick=quick_help)
    rounds_help = "of each run; the first is not timed"
    parser.add_argument("--rounds", type=at_least(2), default=Extent.rounds, help=rounds_help)
    add_repeat(parser, Extent.repeat, "runs of each case, in turn")
    parser.add_argument(
        "--cases", nargs="*", choices=BY_NAME, default=list(BY_NAME), help="of Flower (all)"
    )
    add_peers(parser, tuple(PEERS))
    tls_help = "TLS and registered keys for Flower's cases, too; NVFlare's case has TLS always"
    parser.add_argument("--tls", action="store_true", help=tls_help)
    options = parser.parse(arguments)
    check_compiled(parser, options)
    options.peers = list(dict.fromkeys(options.peers))
    if not (options.cases or options.peers or options.quick):
        parser.error("--cases and --peers leave nothing to play: name one, such as --cases warm")
    options.found = find_peers(parser, options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, and write the table."""
    options = parse(arguments)
    extent = Extent.of(options)
    with tempfile.TemporaryDirectory() as name:
        found = measure(extent, Path(name))
    dtypes = (torch.float32,) if extent.quick else (torch.float32, torch.bfloat16)
    machine = [limits("cpu", dtype) for dtype in dtypes]
    least = least_operations(extent.sites, extent.train)
    at_best = {each.dtype: least / each.product for each in machine}
    write(
        options.output,
        "rounds",
        [table(found, at_best, extent.sites, extent.train)],
        command=options.command,
        notes=notes(extent, least, machine),
        more={
            "timings": {c: [[t.seconds, t.worked] for t in ts] for c, ts in found.items()},
            "server_bytes": {c: max(t.memory for t in ts) for c, ts in found.items()},
            "peers": {name: dict(each.versions) for name, each in extent.peers.items()},
            "operations": least,
            "limits": {each.dtype: asdict(each) for each in machine},
        },
    )


if __name__ == "__main__":
    main()
