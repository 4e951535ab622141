"""What starts take: imports, and `flwr run` up to the first round: `python -m benchmarks.startup`.

Each package is imported in fresh interpreters, beside an empty one, Flower alone and the apps of
Flower's PyTorch quickstart. Runs are of three deployed sites that are connected for a while before the
command is given: stock Flower, ours with a process per message, and ours with the sites' warm process,
in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.flower.deployment import draw
from benchmarks.flower.processes import REPOSITORY, Processes
from benchmarks.report.command_line import (
    at_least,
    check_compiled,
    command_of,
    output_of,
    with_output,
)
from benchmarks.report.tables import Table, times, write
from benchmarks.rounds import COLD, DATA, SITES, STOCK, WARM, Deployment
from server_app.compose import compose

NOTHING, SERVER, CLIENT = "an empty interpreter", "Flower's ServerApp API", "Flower's ClientApp API"
MESSAGES, COMMAND = "Flower's messages", "Flower's command line"
# What is imported for each row, ours and what a user would import instead.
IMPORTS: Mapping[str, str] = {
    NOTHING: "sys",
    MESSAGES: "flwr.app",
    CLIENT: "flwr.clientapp",
    SERVER: "flwr.serverapp",
    COMMAND: "flwr.cli.app",
    "torch": "torch",
    "quickstart's ServerApp": "stock.server_app",
    "quickstart's ClientApp": "stock.client_app",
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
"""Those of ours that need torch; no other may import it."""
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
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "benchmarks" / "stock_app")])
    environment = {**os.environ, "PYTHONPATH": path, "FLWR_TELEMETRY_ENABLED": "0"}
    code = _TIMED.format(module=module)
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, processor, torch = told.stdout.split()[-3:]
    return Import(float(seconds), float(processor), torch == "True")


def until_first_round(case: str, folder: Path, data: Path, sites: int, settle: float) -> float:
    """Return the seconds from `flwr run` to its first round, as its stream tells it.

    The SuperLink and the sites run already; the sites have been connected for ``settle`` seconds.
    """
    deployment = Deployment(case, folder, 1, data, sites)
    with Processes(folder) as processes:
        superlink = deployment.start(processes)
        connected = "Activated node_id"  # what the SuperLink's log says of each SuperNode
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
            f"{statistics.median(one.seconds for one in each):.2f}",
            f"{statistics.median(one.processor for one in each):.2f}",
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
    stock = statistics.median(found[STOCK])
    least = sum(fastest(imports[name]) for name in ALWAYS)
    for case, seconds in found.items():
        median = statistics.median(seconds)
        made.rows[case] = (
            f"{median:.1f}",
            "-" if case == STOCK else f"{stock / median:.1f}",
            f"{least:.1f}",
            f"{median / least:.1f}",
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure imports and runs in turn, and write the tables."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--repeat", type=at_least(1), default=5, help="of each import and each run")
    parser.add_argument("--no-runs", action="store_true", help="imports alone")
    parser.add_argument(
        "--quick", action="store_true", help="once, a few imports, one site, two cases side by side"
    )
    told = with_output(parser).parse_args(given)
    check_compiled(parser, told)
    repeat, sites = (1, 1) if told.quick else (told.repeat, SITES)
    chosen = {NOTHING, *ALWAYS, CLIENT, MESSAGES, *QUICK} if told.quick else set(IMPORTS)
    imports: dict[str, list[Import]] = {name: [] for name in IMPORTS if name in chosen}
    for _ in range(repeat):
        for name, each in imports.items():
            each.append(import_of(IMPORTS[name]))
    cases = (WARM, STOCK) if told.quick else CASES
    runs: dict[str, list[float]] = {} if told.no_runs else {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if runs:
            draw(compose("faces", DATA), sites, None, folder / "data")

        def play(case: str, number: int) -> None:
            place = folder / f"{number}-{CASES.index(case)}"
            settle = 0 if told.quick else SETTLE
            seconds = until_first_round(case, place, folder / "data", sites, settle)
            runs[case].append(seconds)
            print(case, f"{seconds:.1f} s", flush=True)

        with ThreadPoolExecutor(len(cases) if told.quick else 1) as pool:
            for number in range(repeat):
                list(pool.map(play, runs, [number] * len(runs)))
    notes = [
        "Medians. An import is timed within a fresh interpreter, files in the system's cache; at "
        "best is the fastest import of what it cannot do without: torch where it computes, Flower's "
        "own modules where it talks to Flower.",
    ]
    if runs:
        notes.append(
            ("Each once and side by side: no figures to keep. " if told.quick else "")
            + "A run: SuperLink and sites are up and connected"
            + ("" if told.quick else f" for {SETTLE:g} s")
            + ", and the time is from giving `flwr run` "
            "to the first line of its stream that says that the rounds begin. Until then ours has "
            "also asked every site who it is, so that each has imported torch, read its data and "
            "built its model; stock Flower has asked nobody. At best: what nobody can leave out, the "
            "imports of `flwr run` and then of the ServerApp, and of torch there."
        )
    more = {
        "imports": {name: [asdict(one) for one in each] for name, each in imports.items()},
        "runs": runs,
    }
    tables = [imports_table(imports), *([runs_table(runs, imports, sites)] if runs else [])]
    command = command_of("benchmarks.startup", given)
    write(output_of(told), "startup", tables, command=command, notes=notes, more=more)


if __name__ == "__main__":
    main()
