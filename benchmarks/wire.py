"""How many bytes a site sends and receives: `python -m benchmarks.wire --har /data/har.npz`.

Stock Flower's FedAvg of the whole model, and ours with each coding of the exchanged groups: real
processes over real sockets, each byte counted on the TCP connection between a site and the SuperLink.
Beside them is the accuracy after equally many rounds, from a simulation of all sites. ``--quick``
runs two rounds of one site with seeded measurements, whose accuracy says nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy.study import Case, Study
from benchmarks.accuracy.wire_setups import CASES, EXACT, Setup, faces, har, quick, write_body
from benchmarks.flower.local_simulator import LocalSimulator
from benchmarks.flower.site_data import write_measurements, write_site_data
from benchmarks.measure.site_bytes import ALONE, MeteredDeployment, OurBytes, SiteBytes
from benchmarks.report.command_line import add_data, add_runs, at_least, check_data, make_parser
from benchmarks.report.outcome import mean_leading
from benchmarks.report.tables import Figure, Table, times, write
from server_app.compose import compose

STOCK = "whole model, stock Flower FedAvg"
MEGABYTE = 1e6
ACCURACY = "accuracy, %"
SETS = ("faces", "har")
MADE_WITH = ("command", "versions", "machine")
Accuracy = Mapping[str, Figure | None]
"""The accuracy of each case, over the seeds; None where it was not measured."""


def table(setup: Setup, sizes: Mapping[str, SiteBytes], accuracy: Accuracy) -> Table:
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
    whole, best = sizes[STOCK], accuracy.get(EXACT.name)
    for case, size in sizes.items():
        reached = accuracy.get(case)
        points = "-"
        if reached and best and case != EXACT.name:
            points = f"{100 * (reached.mean - best.mean):+.2f}"
        made.rows[case] = (
            *(f"{each / MEGABYTE:.3f}" for each in (size.up, size.down, size.both, size.layers)),
            f"{size.both / size.layers:.2f}",
            "-" if case == STOCK else f"{whole.both / size.both:.1f}",
            reached,
            points,
        )
    return made


def measure_accuracy(
    setup: Setup, options: argparse.Namespace, cases: Sequence[Case]
) -> dict[str, Figure | None]:
    """Return the accuracy of every case after equally many rounds, over the seeds."""
    study = Study("wire", setup.experiment, setup.sites, setup.root, ALONE, tuple(options.seeds))
    with LocalSimulator(options.work.resolve()) as simulator:
        runs = study.run(simulator, cases)
    return {
        name: Figure(tuple(mean_leading(each) for each in results))
        for name, results in runs.items()
    }


def accuracy_in(path: Path) -> tuple[dict[str, Figure | None], dict[str, Any] | None]:
    """Return the accuracy of every case in a results file, and what it was made with.

    Nothing without a file.
    """
    if not path.exists():
        return {}, None
    written = json.loads(path.read_text())
    cells = {case: row[ACCURACY] for case, row in written["tables"][0]["rows"].items()}
    made_with = written.get("accuracy_from") or {key: written[key] for key in MADE_WITH}
    return (
        {case: cell and Figure(tuple(cell["values"])) for case, cell in cells.items()},
        made_with,
    )


def count(setup: Setup, folder: Path, rounds: int, quick: bool) -> tuple[SiteBytes, OurBytes]:
    """Count the bytes of stock Flower and of ours, side by side: bytes do not depend on time."""
    data = folder / "data"
    config = compose(setup.experiment, setup.counted)
    write_site_data(config, len(setup.tasks), setup.root, data)
    stock = MeteredDeployment(setup, folder / "stock", 1 if quick else rounds)
    with ThreadPoolExecutor() as pool:
        counting = pool.submit(stock.stock, data)
        ours = MeteredDeployment(setup, folder / "ours", rounds).ours()
        return counting.result(), ours


def notes(
    setup: Setup, options: argparse.Namespace, rounds: int, before: float, measured: str
) -> list[str]:
    """Return what the reader of the table must know; ``measured`` is the note on the accuracy."""
    counted = f"{rounds - 1} of {rounds} rounds, without the first"
    if options.quick:
        counted = "its only round of stock Flower, the second of ours"
    return [
        "Bytes on the TCP connection between a site and the SuperLink, without TLS, mean over "
        f"{times(len(setup.tasks), 'deployed site')} and {counted}: layers, and all that Flower and "
        "we send besides (plans, reports, polling). Stock Flower sends a site two messages a round, each "
        "with the whole model, and receives it once. Ours sends one message, and one more after the last "
        "round, which is not counted. Stock Flower and ours ran side by side, once. Layers alone: the "
        "coded layers as Flower's arrays hold them, which no protocol can do without. Before and in "
        f"the first round {before / MEGABYTE:.2f} MB passed a site of ours, which is not in the table: "
        "the app, introductions, the pre-trained checkpoint where there is one, and the first round of "
        "the exact case.",
        measured,
    ]


def accuracy_note(setup: Setup, options: argparse.Namespace, accuracy: Accuracy) -> str:
    """Return how the accuracy was measured."""
    if options.quick:
        return "Accuracy: of the deployed sites after two rounds, which says nothing."
    if not accuracy:
        return "Accuracy was not measured."
    when = ""
    if options.bytes_only:
        when = ", measured before the bytes (`accuracy_from` in the JSON file)"
    return (
        f"Accuracy{when}: mean over {setup.sites} simulated sites after the rounds of the experiment, "
        "the same for all, which train as the experiment does. The whole model's is that of FedAvg in "
        "this app, whose mean is Flower's but for rounding."
    )


def compare(setup: Setup, folder: Path, rounds: int, options: argparse.Namespace) -> None:
    """Count and measure one set of data, and write what was found."""
    name = f"wire-{setup.name}"
    stock, ours = count(setup, folder, rounds, options.quick)
    sizes = {STOCK: stock, **ours.cases}
    accuracy: Accuracy
    made_with = None
    if options.quick:
        accuracy = {case: Figure((value,)) for case, value in ours.accuracy.items()}
    elif options.bytes_only:
        accuracy, made_with = accuracy_in(options.output / f"{name}.json")
    else:
        accuracy = measure_accuracy(setup, options, [Case(STOCK, setup.whole), *setup.cases])
    more: dict[str, Any] = {
        "bytes": {case: [size.up, size.down, size.layers] for case, size in sizes.items()},
        "before": ours.before,
    }
    if made_with is not None:
        more["accuracy_from"] = made_with
    measured = accuracy_note(setup, options, accuracy)
    write(
        options.output,
        name,
        [table(setup, sizes, accuracy)],
        command=options.command,
        notes=notes(setup, options, rounds, ours.before, measured),
        more=more,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser("wire", __doc__, quick="one site, two rounds, few codings")
    rounds_help = "counted; the first is left out"
    parser.add_argument("--rounds", type=at_least(2), default=4, help=rounds_help)
    bytes_help = "no simulation: the accuracy is that of the results that are there, or none"
    parser.add_argument("--bytes-only", action="store_true", help=bytes_help)
    parser.add_argument("--sets", nargs="+", choices=SETS, help="faces, and har if its data exists")
    parser.add_argument(
        "--add",
        nargs="+",
        choices=[case.name for case in CASES if case != EXACT],
        help="count and play these codings alone, and put their rows into the table that is there",
    )
    add_data(parser, "--har", "har.npz", "UCI HAR")
    options = add_runs(parser).parse(arguments)
    if "har" in (options.sets or ()) or options.har != parser.get_default("har"):
        check_data(parser, options, ["--har"])
    return options


def only(setup: Setup, names: Sequence[str]) -> Setup:
    """Return the setup with these codings alone."""
    return replace(setup, cases=tuple(case for case in setup.cases if case.name in names))


def add(setup: Setup, folder: Path, rounds: int, options: argparse.Namespace) -> None:
    """Count and measure the codings of ``--add``; all other rows stay as they are in the results.

    Raises
    ------
    SystemExit
        There are no results to add to.
    """
    path = options.output / f"wire-{setup.name}.json"
    if not path.exists():
        raise SystemExit(f"--add: there is no {path}; leave --add out")
    few = only(setup, options.add)
    ours = MeteredDeployment(few, folder / "ours", rounds).ours()
    played = {} if options.bytes_only else measure_accuracy(few, options, few.cases)
    write_added(setup, path, ours.cases, played, options.command)


def write_added(
    setup: Setup, path: Path, sizes: Mapping[str, SiteBytes], played: Accuracy, command: str
) -> None:
    """Write the results of ``path`` again, with the rows of these cases, and what made them."""
    written = json.loads(path.read_text())
    accuracy, made_with = accuracy_in(path)
    counted = {case: SiteBytes(*each) for case, each in written["bytes"].items()} | dict(sizes)
    order = [case for case in (STOCK, *(each.name for each in CASES)) if case in counted]
    counted = {case: counted[case] for case in order}
    what = "bytes and accuracy" if played else "bytes alone"
    added = f"Added later, {what}: {' and '.join(sizes)} by `{command}`."
    write(
        path.parent,
        path.stem,
        [table(setup, counted, {**accuracy, **played})],
        command=written["command"],
        notes=[*written["notes"], added],
        more={
            "bytes": {case: [size.up, size.down, size.layers] for case, size in counted.items()},
            "before": written["before"],
            "accuracy_from": made_with,
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, measure, and write a table for each set of data."""
    options = parse(arguments)
    exists = options.har is not None and options.har.exists()
    sets = options.sets or (SETS if exists else SETS[:1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.quick:
            measurements = folder / "har.npz"
            write_measurements(measurements, 1)
            setups = [quick(measurements)]
        else:
            body = write_body(folder / "body.safetensors")
            setups = [
                faces(body) if each == "faces" else har(options.har.resolve()) for each in sets
            ]
        for setup in setups:
            rounds = 2 if options.quick else options.rounds
            (add if options.add else compare)(setup, folder / setup.name, rounds, options)


if __name__ == "__main__":
    main()
