"""`fedstrata run`: a simulation on this machine, from the command to its results."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstrata import report
from fedstrata.cli.app_config import default_config
from fedstrata.cli.run_screen import Screen, make_screen
from fedstrata.cli.runs import resume_command
from fedstrata.engine.local import COMPLETED, LocalEngine
from fedstrata.protocol.limits import printable
from fedstrata.runs.folder import (
    OUTPUTS,
    Given,
    find_run,
    mark_stopped,
    read_given,
    read_run,
    read_state,
)
from fedstrata.runs.sweep import Sweep, find_sweep, read_sweep
from fedstrata.support.durable import PRIVATE_FILE
from fedstrata.support.errors import UserError
from fedstrata.support.paths import path_from_here
from fedstrata.support.said_lines import Said, SaidLines

_COLOR = re.compile(r"\x1b\[\d+m")
POLL = 0.1  # seconds between two looks at the run
KEYS = ("experiment", "data-root", "output-dir", "resume", "name", "signature")
LOGS = "logs"  # in a run's folder: what its processes wrote, a file for each start


class Stopped(BaseException):
    """Ctrl-C, or a signal to end."""


@dataclass(frozen=True)
class Wanted:
    """What is to be run.

    Parameters
    ----------
    keys : dict of str to str
        The run config, as `flwr run -c` has it, without overrides.
    overrides : tuple of str
        Hydra's overrides.
    nodes : int or None
        Nodes of the simulation; None for what the experiment needs.
    """

    keys: dict[str, str]
    overrides: tuple[str, ...]
    nodes: int | None

    @property
    def output(self) -> Path:
        """Where the run's folder is, or will be."""
        return Path(self.keys["output-dir"])

    @property
    def run_config(self) -> dict[str, str]:
        """What `flwr run -c` would give."""
        given = {key: value for key, value in self.keys.items() if value}
        return {**given, "overrides": " ".join(map(_quoted, self.overrides))}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata run",
        description="Simulates a federation on this machine: what `flwr run . --stream` does, with "
        "processes of its own. It ends with 0 only if the run is complete.",
    )
    made.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="experiment=, name=, data-root=, output-dir=, and Hydra's overrides, such as "
        "strategy.rounds=4; a comma makes several runs: seed=1,2,3",
    )
    made.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="go on with a run: its name, its folder, or latest, which is the default",
    )
    made.add_argument(
        "--nodes", type=int, metavar="N", help="sites, or cohorts of sites, to simulate"
    )
    made.add_argument(
        "--node-cpus", type=int, default=1, metavar="N", help="CPUs for each node that trains: 1"
    )
    made.add_argument(
        "--node-gpus", type=float, default=0.0, metavar="X", help="GPU for each, such as 0.5"
    )
    return made


def main(arguments: Sequence[str]) -> None:
    """Run what the command line says; end with 0 only if it is complete."""
    options = parser().parse_intermixed_args(arguments)
    try:
        wanted = read_wanted(options)
        with LocalEngine(options.node_cpus, options.node_gpus) as engine:
            ended = play(wanted, engine)
    except UserError as error:
        sys.exit(f"fedstrata run: {printable_lines(str(error))}")
    sys.exit(ended)


def printable_lines(text: str) -> str:
    """Return a text of several lines without what could control a terminal."""
    return "\n".join(map(printable, text.split("\n")))


def read_wanted(options: argparse.Namespace) -> Wanted:
    """Return what the command line asks for.

    Raises
    ------
    UserError
        A word is no setting, or the run to be resumed does not exist.
    """
    resume, words = options.resume, list(options.settings)
    if resume is not None and "=" in resume:  # the option took the first setting for its value
        resume, words = "latest", [resume, *words]
    keys, overrides = dict.fromkeys(KEYS, ""), []
    for word in words:
        key, given, value = word.partition("=")
        if key == "overrides":
            raise UserError(
                "overrides=...: write the overrides themselves, as in strategy.rounds=4"
            )
        if given and key in keys:
            keys[key] = value
        else:
            overrides.append(word)
    for name, value in (("--nodes", options.nodes), ("--node-cpus", options.node_cpus)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: at least one")
    nodes = options.nodes
    if resume is not None:
        if keys["resume"]:
            raise UserError("--resume and resume=... say the same: write one of them")
        keys, before, nodes = _resumed(resume, keys, nodes)
        overrides = [*before, *overrides]
    keys["experiment"] = keys["experiment"] or default_config()["experiment"]
    keys["output-dir"] = str(path_from_here(keys["output-dir"] or OUTPUTS, "output-dir"))
    if keys["data-root"]:
        keys["data-root"] = str(path_from_here(keys["data-root"], "data-root"))
    return Wanted(keys, tuple(overrides), nodes)


def _quoted(override: str) -> str:
    """Return an override as one word among others: a value may have spaces, as paths do."""
    if all("=" in word or word[0] in ";~" for word in override.split()[1:]):
        return override  # one word, or several overrides in one argument
    quote = next((each for each in "\"'" if each not in override), "")
    return f"{quote}{override}{quote}"


def _resumed(
    wanted: str, keys: Mapping[str, str], nodes: int | None
) -> tuple[dict[str, str], list[str], int | None]:
    """Return the keys, overrides and nodes with which a run began; ``keys`` that are given win."""
    output = path_from_here(keys["output-dir"], "output-dir") if keys["output-dir"] else None
    sweep = find_sweep(wanted, output)
    if sweep is not None:
        return _resumed_sweep(sweep, keys, nodes)
    run = find_run(wanted, output)
    given = read_given(run.path)
    sweep = read_sweep(run.path.parent / given.sweep) if given.sweep else None
    if wanted == "latest" and sweep is not None and run.name in sweep.runs:
        return _resumed_sweep(sweep, keys, nodes)
    if run.active:
        raise UserError(f"{run.path} goes on now; watch it with `fedstrata watch {run.name}`")
    return _as_begun(run.path, run.experiment, given, keys, nodes)


def _resumed_sweep(
    sweep: Sweep, keys: Mapping[str, str], nodes: int | None
) -> tuple[dict[str, str], list[str], int | None]:
    """Return the keys, overrides and nodes with which a sweep began; ``keys`` that are given win."""
    for path in sweep.runs_there():
        if read_run(path).active:
            raise UserError(f"{path} goes on now; watch it with `fedstrata watch {path.name}`")
    return _as_begun(sweep.path, sweep.experiment, sweep.given, keys, nodes)


def _as_begun(
    path: Path, experiment: str, given: Given, keys: Mapping[str, str], nodes: int | None
) -> tuple[dict[str, str], list[str], int | None]:
    """Return what a run or sweep in ``path`` began with, except what is given now."""
    begun = {
        "experiment": experiment,
        "data-root": given.data_root,
        "output-dir": str(path.parent.absolute()),
        "resume": path.name,
    }
    merged = {key: keys[key] or begun.get(key, "") for key in KEYS}
    return merged, list(given.overrides), nodes or given.nodes


def nodes_of(wanted: Wanted) -> int:
    """Return the nodes to simulate, once each run's configuration is found to be right.

    Raises
    ------
    UserError
        What is wrong, before anything is started.
    """
    # Imported late: Hydra takes half a second, which a mistake in the command line need not.
    from server_app.compose import loaded, read_run_config, simulated_nodes
    from server_app.saved_run import folder_of, saved_run
    from server_app.sweep import runs_of
    from server_app.trackers import check_tracker
    from strategies.config import config_from_dict

    needed = []
    for each in runs_of(read_run_config(wanted.run_config)).each:  # as the ServerApp reads it
        composed = loaded(each.experiment, each.overrides)
        config = config_from_dict(composed)
        check_tracker(config.tracker)
        measured = saved_run(config, each.overrides, each.output_dir)
        folder_of(each, config if measured is None else measured.config(config), measured)
        needed.append(simulated_nodes(composed))
    return wanted.nodes or max(needed)


def play(wanted: Wanted, engine: LocalEngine) -> int:
    """Play a run to its end; return the exit status."""
    nodes = nodes_of(wanted)
    screen = make_screen()
    screen.say(f"starting {wanted.keys['experiment']} with {nodes} nodes")
    follower = Follower(wanted, screen, engine.write_to)
    with _log_file(wanted.output) as log, _signals():
        follower.log = log
        try:
            with screen:
                engine.start({**default_config(), **wanted.run_config}, nodes, log)
                status = follower.follow(SaidLines(engine.said), engine.status)
        except (Stopped, KeyboardInterrupt):
            engine.close()
            return follower.stopped()
    return follower.ended(status)


class Follower:
    """Shows a run while it goes on, and says how it ended.

    Parameters
    ----------
    wanted : Wanted
        What was asked for.
    screen : Screen
        Where it is shown.
    log_moved : callable
        Takes the path to which the log was moved.
    """

    def __init__(self, wanted: Wanted, screen: Screen, log_moved: Callable[[Path], None]) -> None:
        self.wanted, self.screen, self._log_moved = wanted, screen, log_moved
        self.log = Path()
        self.folders: list[Path] = []
        self.sweep: Path | None = None
        self.errors = 0

    def follow(self, said: SaidLines, status: Callable[[], str]) -> str:
        """Show what is said until the run has ended; return how it ended."""
        now = ""
        while not now.startswith("finished"):
            time.sleep(POLL)
            now = status()
            for each in said.new():
                self._show(each)
            self.screen.show(self.folders[-1] if self.folders else None)
        return now

    def _show(self, said: Said) -> None:
        if said.kind == "run":
            self._enter(Path(said.text))
        elif said.kind == "sweep":
            self.sweep = Path(said.text)
        elif said.kind == "error":
            self.errors += 1
            self.screen.error(f"fedstrata run: {printable_lines(said.text)}")
        else:
            self.screen.say(printable(said.text))

    def _enter(self, folder: Path) -> None:
        """Note a run's folder; the log lies in that of the first."""
        self.folders.append(folder)
        if len(self.folders) == 1:
            name = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            logs = folder / LOGS
            with contextlib.suppress(OSError):  # it stays where it is
                logs.mkdir(mode=0o700, exist_ok=True)
                self.log = self.log.rename(logs / f"{name}.log")
                self._log_moved(self.log)

    def stopped(self) -> int:
        """Say how the run is resumed after Ctrl-C; return the exit status."""
        if not self.folders:
            self.log.unlink(missing_ok=True)
        for folder in self.folders[-1:]:
            mark_stopped(folder, "it was stopped before its end (Ctrl-C or a signal)")
        self._write_reports(self.folders)
        self.screen.error(f"stopped. {self._resume_line()}")
        return 130

    def ended(self, status: str) -> int:
        """Say what the run's end leaves to say; return the exit status."""
        if status == COMPLETED:
            self.screen.say(f"the log of its processes: {self.log}")
            self._write_reports(self.folders, whole=True)
            return 0
        if not self.errors:
            self.screen.error(f"fedstrata run: the run failed; the end of {self.log}:")
            self.screen.error(_tail(self.log))
        else:
            self.screen.error(f"the log of its processes: {self.log}")
        self._write_reports(self.folders)
        self.screen.error(self._resume_line())
        return 1

    def _write_reports(self, folders: Sequence[Path], *, whole: bool = False) -> None:
        """Write the page of each run, of what there is of it, and say where it is."""
        for folder in folders:
            page = folder / report.FILE
            try:
                report.write_report([folder], page)
                so_far = not whole and read_state(folder)[0] not in ("", "complete")
            except UserError as error:
                self.screen.error(f"the report was not written: {printable_lines(str(error))}")
            else:
                self.screen.say(f"report so far: {page}" if so_far else f"report: {page}")
        if len(folders) > 1:
            names = " ".join(map(shlex.quote, map(str, folders)))
            self.screen.say(f"compare them: fedstrata report {names}")

    def _resume_line(self) -> str:
        if self.sweep is not None:
            return f"Go on with it: {resume_command(self.sweep)}"
        begun = [each for each in self.folders if (each / "run.json").exists()]
        lines = [
            f"Go on with it: {resume_command(each)}" for each in begun if not _is_complete(each)
        ]
        return "\n".join(lines) or "It had not begun: there is nothing to resume."


def _is_complete(folder: Path) -> bool:
    try:
        return read_run(folder).state == "complete"
    except UserError:
        return False


def _tail(path: Path, lines: int = 15) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return str(error)
    shown = text.rstrip().splitlines()[-lines:]
    return printable_lines("\n".join(_COLOR.sub("", line) for line in shown))


@contextmanager
def _log_file(output: Path) -> Iterator[Path]:
    """Yield a new file for the log, in the output folder: from there it is moved to the run's."""
    path = output / f".starting-{time.time_ns()}.log"
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.touch(PRIVATE_FILE, exist_ok=False)
    except OSError as error:
        raise UserError(f"output-dir: {output} cannot be written: {error.strerror}") from None
    yield path


@contextmanager
def _signals() -> Iterator[None]:
    """Raise `Stopped` for a signal that would end this process at once."""

    def stop(number: int, frame: Any) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # once is enough
            signal.signal(each, signal.SIG_IGN)
        print("stopping: the run's processes end first", file=sys.stderr, flush=True)
        raise Stopped

    before = {
        each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
