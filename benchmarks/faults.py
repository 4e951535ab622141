"""Faults on purpose: `python -m benchmarks.faults --faults 100 --seed 1`.

A SuperLink, three sites and the driver of a run are real processes over real sockets. One after the
other they are killed, paused and cut off from the network, in every phase of a round, by a fixed seed.
A process that died is started again after a second, as a restart policy does.

After each run: no complete round is lost or changed, and no site's personal layers of a round are
lost, changed or another site's. Where no contribution was missed, the results are those of an
undisturbed run, bit for bit. Two runs of three wait for every site in every round
(``strategy.minimum.common=3``), so that none is missed; the third goes on without a missing site.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.fault_injection.comparison import Outcome, compare, tensors_of
from benchmarks.fault_injection.injector import Injector
from benchmarks.fault_injection.plan import COMPONENTS, KINDS, SITES, Fault, plan_faults
from benchmarks.fault_injection.testbed import ROUNDS, RUN, Testbed
from benchmarks.fault_injection.watcher import Watcher
from benchmarks.flower.deployment import SuperLink
from benchmarks.flower.processes import Process, Processes
from benchmarks.flower.proxy import Proxy
from benchmarks.report.command_line import make_parser
from benchmarks.report.tables import Table, write

FAULTS_A_RUN = 4
QUICK = 12


def run_with_faults(
    testbed: Testbed, faults: Sequence[Fault], minimum: int = len(SITES)
) -> Outcome:
    """Run to the end with faults on the way; ``minimum`` sites must answer in each round."""
    run, name = _start_run(testbed, minimum)
    folder = testbed.output / name
    watcher = Watcher(folder, testbed.processes.folder)
    thread = threading.Thread(target=watcher.watch, daemon=True)
    thread.start()
    injector = Injector(testbed, run, name)
    happened = []
    for fault in faults:
        if injector.inject(fault):
            print(f"  {fault}", flush=True)
            happened.append(fault)
    testbed.processes.finish(run, seconds=600)
    watcher.ended.set()
    thread.join()
    results = json.loads((folder / "results.json").read_text())
    watcher.check_results(results)
    broken = watcher.broken
    if run.popen.returncode != 0 or not results["final"]:
        broken.append(f"the run did not reach its end: {run.text[-500:]}")
    if [record["round"] for record in results["rounds"]] != list(range(1, ROUNDS + 1)):
        broken.append("rounds are missing or doubled in results.json")
    last = sorted((folder / "checkpoints").glob("round-*"))[-1]
    personal = {}
    for site in SITES:
        saved = testbed.processes.folder / site / "state" / results["federation"] / "sites" / site
        personal[site] = tensors_of(sorted(saved.glob("round-*"))[-1])
    return Outcome(results, tensors_of(last / "state.safetensors"), personal, broken, happened)


def _start_run(testbed: Testbed, minimum: int) -> tuple[Process, str]:
    """Start the driver, and wait until its run has a folder; return both."""
    old = {path.name for path in testbed.output.glob("*")}
    overrides = " ".join([*RUN, f"strategy.minimum.common={minimum}"])
    pairs = ["-c", f"output-dir={testbed.output}", "-c", f"overrides={overrides}"]
    command = ["fedstrata", "consortium", "run", testbed.superlink.name, *pairs]
    run = testbed.processes.start("driver", command)
    testbed.processes.wait_for(
        "the run begins",
        lambda: {path.name for path in testbed.output.glob("*")} != old,
        seconds=180,
        watch=[run],
    )
    (name,) = {path.name for path in testbed.output.glob("*")} - old
    return run, name


def disturb(folder: Path, seed: int, count: int) -> tuple[list[Outcome], list[str]]:
    """Run undisturbed, then as often as the faults need; return the outcomes and what broke."""
    outcomes, broken = [], []
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(folder))
        superlink = SuperLink(processes)
        lines = {site: stack.enter_context(Proxy(superlink.fleet)) for site in SITES}
        testbed = Testbed(processes, superlink, lines)
        stack.callback(testbed.end)
        testbed.begin()
        undisturbed = run_with_faults(testbed, [])
        if not undisturbed.complete or undisturbed.broken:
            problems = ["the undisturbed run was not complete", *undisturbed.broken]
            return [undisturbed], problems
        faults = plan_faults(seed, count)
        for number, start in enumerate(range(0, count, FAULTS_A_RUN)):
            print(f"run {number + 1}", flush=True)
            # Every third run goes on without a missing site; in the others each round waits for all.
            minimum = 1 if number % 3 == 2 else len(SITES)
            outcome = run_with_faults(testbed, faults[start : start + FAULTS_A_RUN], minimum)
            outcomes.append(outcome)
            wrong = compare(undisturbed, outcome)
            broken += [f"run {number + 1}: {each}" for each in wrong]
            for each in wrong:
                print(f"  BROKEN: {each}", flush=True)
    return outcomes, broken


def tally(outcomes: Sequence[Outcome]) -> Table:
    """Return how many faults of each kind each component met."""
    table = Table("Faults on purpose", ("component", *KINDS))
    for component in COMPONENTS:
        met = [f for outcome in outcomes for f in outcome.happened if f.component == component]
        table.rows[component] = tuple(str(sum(f.kind == kind for f in met)) for kind in KINDS)
    return table


def notes(outcomes: Sequence[Outcome], broken: Sequence[str]) -> list[str]:
    """Return what happened in sentences, one for each thing that broke."""
    happened = sum(len(outcome.happened) for outcome in outcomes)
    whole = sum(outcome.complete for outcome in outcomes)
    text = (
        f"{happened} faults in {len(outcomes)} runs of {ROUNDS} rounds; "
        f"in {whole} runs no contribution was missed"
    )
    if not broken:
        text += (
            ", and those ended with the layers, personal layers and metrics of the undisturbed run, "
            "bit for bit"
        )
    return [f"{text}.", *[f"BROKEN: {each}" for each in broken]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run with faults, and write what happened."""
    parser = make_parser("faults", __doc__, quick="a dozen")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse(arguments)
    count = QUICK if options.quick else options.faults
    with tempfile.TemporaryDirectory() as name:
        outcomes, broken = disturb(Path(name), options.seed, count)
    tables, found = [tally(outcomes)], notes(outcomes, broken)
    write(options.output, "faults", tables, command=options.command, notes=found)
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
