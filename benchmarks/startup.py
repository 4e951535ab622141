"""What starts take: imports, and `flwr run` up to the first round: `python -m benchmarks.startup`.

Each package is imported in fresh interpreters, beside an empty one, Flower alone and the apps of
Flower's PyTorch quickstart. Runs are of three deployed sites, connected for a while before the command
is given: stock Flower, ours with a process per message, and ours with the sites' warm process, in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.flower.processes import REPOSITORY, Processes
from benchmarks.flower.site_data import write_site_data
from benchmarks.flower.stock import STOCK_APP
from benchmarks.measure.deployed_rounds import COLD, DATA, SITES, STOCK, WARM, Deployment
from benchmarks.measure.turns import in_turn, median_of, medians
from benchmarks.report.command_line import add_repeat, check_compiled, make_parser
from benchmarks.report.tables import Table, times, write
from server_app.compose import compose

NOTHING, SERVER, CLIENT = "an empty interpreter", "Flower's ServerApp API", "Flower's ClientApp API"
MESSAGES, COMMAND = "Flower's messages", "Flower's command line"
# What is imported for each row: ours, and what a user would import instead.
IMPORTS: Mapping[str, str] = {
    NOTHING: "sys",
    MESSAGES: "flwr.app",
    CLIENT: "flwr.clientapp",
    SERVER: "flwr.serverapp",
    COMMAND: "flwr.cli.app",
    "torch": "torch",
    # With the library of the network that both build first thing.
    "quickstart's ServerApp": "stock.server_app, torchvision.models",
    "quickstart's ClientApp": "stock.client_app, torchvision.models",
    "server_app.app": "server_app.app",
    "client_app.app": "client_app.app",
    "fedstrata.protocol.answers": "fedstrata.protocol.answers",
    "server_app.rounds.loop": "server_app.rounds.loop",
    "client_app.round": "client_app.round",
    "models.networks": "models.networks",
    "conf": "conf",
    "server_app.compose": "server_app.compose",
    "fedstrata.cli.site": "fedstrata.cli.site",
    "fedstrata.cli.node": "fedstrata.cli.node",
    "fedstrata.cli.consortium": "fedstrata.cli.consortium",
}
WITH_TORCH = {"server_app.rounds.loop", "client_app.round", "models.networks"}
"""Modules of ours that need torch; no other may import it."""
LEAST = {"server_app.app": SERVER, "client_app.app": CLIENT, "fedstrata.protocol.answers": MESSAGES}
LEAST |= {"fedstrata.cli.consortium": MESSAGES, **dict.fromkeys(WITH_TORCH, "torch")}
# Imported before any first round: by `flwr run` itself, then by the ServerApp, which has a network.
ALWAYS = (COMMAND, SERVER, "torch")
QUICK = (
    "torch",
    "server_app.app",
    "client_app.app",
    "fedstrata.cli.site",
    "fedstrata.cli.consortium",
)
CASES = (WARM, COLD, STOCK)
FIRST_ROUND = {STOCK: "[ROUND 1/", COLD: "results go to", WARM: "results go to"}
SETTLE = 20.0  # seconds in which the sites' warm processes import what they need
PATIENCE = 300.0  # seconds for a run to begin its first round
NOTE = (
    "Medians. An import is timed within a fresh interpreter, files in the system's cache. At best is "
    "the fastest import of what it cannot do without: torch where it computes, Flower's own modules "
    "where it talks to Flower."
)
_TIMED = """
import sys, time
started, before = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - started, time.process_time() - before, "torch" in sys.modules)
"""


@dataclass(frozen=True)
class Import:
    """What importing a module took in a fresh interpreter.

    Parameters
    ----------
    seconds, processor : float
        Time that passed, and that of the processors.
    torch : bool
        Whether torch came along.
    """

    seconds: float
    processor: float
    torch: bool


def import_of(module: str) -> Import:
    """Import ``module`` in a fresh interpreter; the interpreter's own start is not counted."""
    path = os.pathsep.join([str(REPOSITORY), str(STOCK_APP)])
    environment = {**os.environ, "PYTHONPATH": path, "FLWR_TELEMETRY_ENABLED": "0"}
    code = _TIMED.format(module=module)
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, processor, torch = run.stdout.split()[-3:]  # it may print before
    return Import(float(seconds), float(processor), torch == "True")


def until_first_round(case: str, folder: Path, data: Path, sites: int, settle: float) -> float:
    """Return the seconds from `flwr run` to its first round, as its output shows it.

    The SuperLink and the sites run already; the sites have been connected for ``settle`` seconds.
    """
    deployment = Deployment(case, folder, 1, data, sites)
    with Processes(folder) as processes:
        superlink = deployment.start(processes)
        connected = "Activated node_id"  # the SuperLink's log has it for each SuperNode
        log = superlink.process
        assert log is not None
        processes.wait_for(
            "the sites to connect",
            lambda: log.text.count(connected) >= sites,
            seconds=PATIENCE,
        )
        time.sleep(settle)
        started = time.monotonic()
        run = deployment.submit(processes, superlink)
        processes.wait_for(
            "the first round",
            lambda: FIRST_ROUND[case] in run.text,
            seconds=PATIENCE,
            watch=[run],
            poll=0.02,
        )
        return time.monotonic() - started


def imports_table(found: Mapping[str, Sequence[Import]]) -> Table:
    """Return the medians, beside what cannot be left out."""
    made = Table("Importing", ("module", "seconds", "of processors", "at best", "torch"))
    for name, each in found.items():
        least = LEAST.get(name)
        made.rows[name] = (
            f"{median_of(each, lambda one: one.seconds):.2f}",
            f"{median_of(each, lambda one: one.processor):.2f}",
            f"{fastest(found[least]):.2f} ({least})" if least and least in found else "-",
            "yes" if any(one.torch for one in each) else "no",
        )
    return made


def fastest(imports: Sequence[Import]) -> float:
    """Return the seconds of the fastest: what the machine allows."""
    return min(one.seconds for one in imports)


def runs_table(
    found: Mapping[str, Sequence[float]], imports: Mapping[str, Sequence[Import]], sites: int
) -> Table:
    """Return the medians, how many times longer stock Flower takes, and the imports of `ALWAYS`."""
    made = Table(
        f"`flwr run` to the first round, {times(sites, 'deployed site')}",
        ("case", "seconds", "stock Flower / this", "at best", "this / at best"),
    )
    seconds = medians(found, float)
    least = sum(fastest(imports[name]) for name in ALWAYS)
    for case, median in seconds.items():
        made.rows[case] = (
            f"{median:.1f}",
            "-" if case == STOCK else f"{seconds[STOCK] / median:.1f}",
            f"{least:.1f}",
            f"{median / least:.1f}",
        )
    return made


def measure_imports(names: Sequence[str], repeat: int) -> dict[str, list[Import]]:
    """Import each of ``names`` in turn, in fresh interpreters."""
    return in_turn(names, repeat, lambda name, _: import_of(IMPORTS[name]))


def measure_runs(
    cases: Sequence[str], sites: int, repeat: int, folder: Path, *, quick: bool
) -> dict[str, list[float]]:
    """Return the seconds of each case until its first round, in turn or, when quick, side by side."""
    write_site_data(compose("faces_paper", DATA), sites, None, folder / "data")

    def once(case: str, number: int) -> float:
        place, settle = folder / f"{number}-{CASES.index(case)}", 0 if quick else SETTLE
        seconds = until_first_round(case, place, folder / "data", sites, settle)
        print(case, f"{seconds:.1f} s", flush=True)
        return seconds

    return in_turn(cases, repeat, once, side_by_side=quick)


def runs_note(quick: bool) -> str:
    """Return what the reader of the table of runs must know."""
    once = "Each once and side by side: no figures to keep. " if quick else ""
    settled = "" if quick else f" for {SETTLE:g} s"
    return (
        f"{once}A run: SuperLink and sites are up and connected{settled}, and the time is from giving "
        "`flwr run` to the first line of its output that says that the rounds begin. Until then ours has "
        "also asked every site who it is: each has imported torch, read its data and built its model. "
        "Stock Flower has asked nobody. At best: what nobody can leave out, the imports of `flwr run` "
        "and then of the ServerApp, and of torch there."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    quick_help = "once, a few imports, one site, two cases side by side"
    parser = make_parser("startup", __doc__, quick=quick_help)
    add_repeat(parser, 5, "of each import and each run")
    parser.add_argument("--no-runs", action="store_true", help="imports alone")
    options = parser.parse(arguments)
    check_compiled(parser, options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure imports and runs, and write the tables."""
    options = parse(arguments)
    quick = options.quick
    repeat, sites, cases = (1, 1, (WARM, STOCK)) if quick else (options.repeat, SITES, CASES)
    few = {NOTHING, *ALWAYS, CLIENT, MESSAGES, *QUICK}
    imports = measure_imports([n for n in IMPORTS if not quick or n in few], repeat)
    tables, notes = [imports_table(imports)], [NOTE]
    runs: dict[str, list[float]] = {}
    if not options.no_runs:
        with tempfile.TemporaryDirectory() as name:
            runs = measure_runs(cases, sites, repeat, Path(name), quick=quick)
        tables.append(runs_table(runs, imports, sites))
        notes.append(runs_note(quick))
    more = {
        "imports": {name: [asdict(one) for one in each] for name, each in imports.items()},
        "runs": runs,
    }
    command = options.command
    write(options.output, "startup", tables, command=command, notes=notes, more=more)


if __name__ == "__main__":
    main()
