"""`fedstrata run`: what is asked for, checked before anything starts, shown, and how it ends."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from fedstrata.cli import run as command
from fedstrata.cli.run import Follower, Stopped, Wanted, main, nodes_of, parser, read_wanted
from fedstrata.cli.run_screen import Screen
from fedstrata.protocol.progress import Progress, RunState, read_progress, write_progress
from fedstrata.runs.sweep import write_sweep
from fedstrata.support.errors import UserError
from fedstrata.support.said_lines import VARIABLE, SaidLines, note_said
from tests.helpers.run_results import run_results


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("fedstrata.engine.local.forkserver.ensure_running", lambda: None)
    return tmp_path


def wanted_of(*words: str) -> Wanted:
    return read_wanted(parser().parse_intermixed_args(words))


def begun(folder: Path, given: dict[str, Any] | None = None) -> Path:
    """Write down a run that was interrupted."""
    folder.mkdir(parents=True)
    content = {
        "experiment": "har",
        "config": {},
        "given": given
        or {"overrides": ["seed=7", "strategy.rounds=9"], "data-root": "/data/har", "nodes": 5},
    }
    (folder / "run.json").write_text(json.dumps(content))
    write_progress(folder, Progress(state="running"))
    return folder


# -- what is asked for -----------------------------------------------------------------------------


def test_keys_and_overrides_are_told_apart(here: Path) -> None:
    wanted = wanted_of("experiment=har", "strategy.rounds=4", "data-root=data", "--nodes", "3")
    assert wanted.keys["experiment"] == "har"
    assert wanted.keys["data-root"] == str(here / "data")
    assert wanted.keys["output-dir"] == str(here / "outputs")
    assert (wanted.overrides, wanted.nodes) == (("strategy.rounds=4",), 3)


def test_a_resumed_run_is_given_what_it_began_with(here: Path) -> None:
    begun(here / "outputs" / "march")
    wanted = wanted_of("--resume", "march", "strategy.give_up=5")
    assert wanted.keys["experiment"] == "har"
    assert wanted.keys["resume"] == "march"
    assert wanted.keys["data-root"] == "/data/har"
    assert wanted.overrides == ("seed=7", "strategy.rounds=9", "strategy.give_up=5")
    assert wanted.nodes == 5
    assert wanted_of("--resume", "march", "--nodes", "6").nodes == 6


@pytest.mark.parametrize("words", [["--resume"], ["--resume", "seed=7"], ["seed=7", "--resume"]])
def test_the_latest_run_is_resumed_where_none_is_named(words: list[str], here: Path) -> None:
    begun(here / "home" / "runs" / "april")
    wanted = wanted_of(*words)
    assert wanted.keys["resume"] == "april"
    assert wanted.output == here / "home" / "runs"


def swept(folder: Path) -> Path:
    """Write down a sweep of which one run was interrupted."""
    runs = {"lr_seed-1": ["seed=1"], "lr_seed-2": ["seed=2"]}
    given = {"overrides": ["seed=1,2"], "data-root": "/data/har", "nodes": 5}
    write_sweep(folder / "lr", "har", runs, given)
    begun(folder / "lr_seed-1", {**given, "overrides": ["seed=1"], "sweep": "lr"})
    return folder / "lr"


@pytest.mark.parametrize("words", [["--resume", "lr"], ["--resume"]])
def test_a_sweep_is_resumed_whole(words: list[str], here: Path) -> None:
    swept(here / "outputs")
    wanted = wanted_of(*words)
    assert (wanted.keys["resume"], wanted.keys["experiment"]) == ("lr", "har")
    assert wanted.keys["data-root"] == "/data/har"
    assert (wanted.overrides, wanted.nodes) == (("seed=1,2",), 5)


def test_one_run_of_a_sweep_is_resumed_by_its_name(here: Path) -> None:
    swept(here / "outputs")
    wanted = wanted_of("--resume", "lr_seed-1")
    assert (wanted.keys["resume"], wanted.overrides) == ("lr_seed-1", ("seed=1",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["overrides=seed=1"], "write the overrides themselves"),
        (["--nodes", "0"], "--nodes 0: at least one"),
        (["--resume", "march"], "there is no run in"),
        (["experiment=facez"], "experiment 'facez' does not exist"),
        (["strategy.roundz=3"], "strategy has no 'roundz'"),
        (["simulation.sites=0"], "simulation.sites=0: write a whole number"),
        (["seed=1,2", "resume=march"], "holds no sweep 'march'"),
        (["seed=1,2", "name=my sweep"], "name 'my sweep"),
        (["name=my run"], "name 'my run' cannot be used"),
    ],
)
def test_a_mistake_is_said_once_and_nothing_starts(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert str(ended.value.code).count(message) == 1
    assert capsys.readouterr() == ("", "")
    assert list(here.iterdir()) == []


def test_a_name_that_is_taken_and_a_run_that_cannot_be_read_are_said_first(here: Path) -> None:
    begun(here / "outputs" / "march")
    with pytest.raises(UserError, match="holds a run 'march'"):
        nodes_of(wanted_of("name=march"))
    with pytest.raises(UserError, match="there is no checksum"):
        nodes_of(wanted_of("--resume", "march"))


def test_a_value_with_spaces_stays_one_override(here: Path) -> None:
    wanted = wanted_of("tracker=none", "tracker.folder=/my runs/all", "seed=1 method=local")
    assert wanted.run_config["overrides"] == (
        'tracker=none "tracker.folder=/my runs/all" seed=1 method=local'
    )


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        ([], 10),
        (["experiment=har"], 30),
        (["cohort.sites=4"], 3),
        (["seed=1,2", "simulation.sites=6"], 6),
        (["--nodes", "2", "experiment=har"], 2),
    ],
)
def test_the_experiment_says_how_many_nodes_it_needs(words: list[str], nodes: int) -> None:
    assert nodes_of(wanted_of(*words)) == nodes


# -- while it goes on, and its end -----------------------------------------------------------------


class Fake:
    """A screen that notes, and an engine that plays what a test says."""

    def __init__(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.errors = io.StringIO(), io.StringIO()
        self.said, self.play, self.closed = here / "said", lambda: None, False
        self.end, self.started = "finished:completed", dict[str, Any]()
        monkeypatch.setattr(command, "make_screen", lambda: Screen(self.out, self.errors))
        monkeypatch.setattr(command, "LocalEngine", self.engine)
        monkeypatch.setattr(command, "POLL", 0.001)

    def engine(self, cpus: int, gpus: float) -> Fake:
        self.started = {"cpus": cpus, "gpus": gpus}
        return self

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, run_config: Any, nodes: int, log: Path) -> None:
        self.started |= {**run_config, "nodes": nodes, "log": log}
        self.play()

    def write_to(self, log: Path) -> None:
        self.started["log"] = log

    def status(self) -> str:
        return self.end

    def close(self) -> None:
        self.closed = True

    def say(self, kind: Any, text: str) -> None:
        note_said(kind, text, {VARIABLE: str(self.said)})


@pytest.fixture
def fake(here: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(here, monkeypatch)


def ended(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_complete_run_ends_with_0_and_its_log_lies_in_its_folder(fake: Fake, here: Path) -> None:
    folder = here / "outputs" / "march"

    def play() -> None:
        begun(folder)
        fake.say("run", str(folder))
        fake.say("line", "round 1/8: 3 of 3 sites")

    fake.play = play
    assert ended("name=march", "seed=1", "--nodes", "3", "--node-cpus", "2") == 0
    assert (fake.started["overrides"], fake.started["resume"]) == ("seed=1", "")
    assert (fake.started["nodes"], fake.started["cpus"]) == (3, 2)
    (log,) = (folder / "logs").iterdir()
    assert fake.started["log"] == log
    assert log.stat().st_mode & 0o777 == 0o600
    out = fake.out.getvalue()
    assert "round 1/8: 3 of 3 sites\n" in out
    assert f"the log of its processes: {log}\n" in out
    assert "the report was not written: " in fake.errors.getvalue()  # it has no results.json
    assert [path.name for path in (here / "outputs").iterdir()] == ["march"]


def test_a_failed_run_ends_with_1_its_error_once_and_how_to_go_on(fake: Fake, here: Path) -> None:
    folder = here / "outputs" / "march"

    def play() -> None:
        begun(folder)
        fake.say("run", str(folder))
        fake.say("error", "round 2: no site could take part:\n  north: no\x1b room")

    fake.play, fake.end = play, "finished:failed"
    assert ended() == 1
    errors = fake.errors.getvalue()
    assert errors.count("no? room") == 1
    assert errors.endswith("Go on with it: fedstrata run --resume march\n")


def test_of_several_runs_the_one_that_failed_is_to_be_resumed(fake: Fake, here: Path) -> None:
    first, second = here / "outputs" / "one", here / "outputs" / "two"

    states: dict[Path, RunState] = {first: "failed", second: "complete"}

    def play() -> None:
        for folder, state in states.items():
            fake.say("run", str(begun(folder)))
            write_progress(folder, Progress(state=state, reason="no room"))
        (first / "results.json").write_text(json.dumps(run_results(final=None)))
        fake.say("error", "1 of 2 runs failed")

    fake.play, fake.end = play, "finished:failed"
    assert ended("seed=1,2") == 1
    errors = fake.errors.getvalue()
    assert errors.endswith("Go on with it: fedstrata run --resume one\n")
    assert f"the report was not written: {second}: " in errors  # it has no results.json
    assert f"report so far: {first}/report.html\n" in fake.out.getvalue()
    assert "This run failed: no room" in (first / "report.html").read_text()


def test_of_a_sweep_that_failed_the_whole_is_to_be_resumed(fake: Fake, here: Path) -> None:
    folder = begun(here / "outputs" / "lr_seed-1")

    def play() -> None:
        fake.say("sweep", str(here / "outputs" / "lr"))
        fake.say("run", str(folder))

    fake.play, fake.end = play, "finished:failed"
    assert ended("seed=1,2") == 1
    assert fake.errors.getvalue().endswith("Go on with it: fedstrata run --resume lr\n")


def test_where_the_app_did_not_say_why_the_end_of_the_log_is_shown(fake: Fake) -> None:
    fake.end = "finished:failed"
    assert ended() == 1
    assert "the run failed; the end of" in fake.errors.getvalue()
    assert "there is nothing to resume" in fake.errors.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes_and_says_the_line_that_resumes(
    number: signal.Signals, fake: Fake, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "out" / "march"

    def play() -> None:
        begun(folder)
        (folder / "results.json").write_text(json.dumps(run_results(final=None)))
        fake.say("run", str(folder))

    fake.play, fake.end = play, "running"
    looks = iter(range(3))

    def status() -> str:
        if next(looks) == 1:
            signal.raise_signal(number)
        return "running"

    fake.status = status  # type: ignore[method-assign]
    before = signal.getsignal(number)
    assert ended(f"output-dir={here / 'out'}") == 130
    assert fake.closed
    assert signal.getsignal(number) == before
    line = f"Go on with it: fedstrata run --resume march output-dir={here / 'out'}"
    assert line in fake.errors.getvalue()
    progress = read_progress(folder)
    assert progress is not None
    assert progress.state == "stopped"
    assert f"report so far: {folder}/report.html\n" in fake.out.getvalue()
    page = (folder / "report.html").read_text()
    assert page.index("This run was stopped: it was stopped") < page.index("What was run")


def test_a_folder_that_cannot_be_written_is_said(here: Path) -> None:
    (here / "outputs").write_text("")
    with pytest.raises(SystemExit, match=r"output-dir: .*outputs cannot be written"):
        main([])


def test_a_run_that_goes_on_is_not_resumed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(here / "outputs" / "march")
    monkeypatch.setattr("fedstrata.runs.folder.is_written", lambda *_: True)
    with pytest.raises(UserError, match="goes on now"):
        wanted_of("--resume", "march")


def test_what_is_said_after_the_last_look_is_shown(fake: Fake) -> None:
    screen = Screen(fake.out, fake.errors)

    def status() -> str:
        fake.say("line", "the last words")  # the ServerApp says them, and ends
        return "finished:completed"

    follower = Follower(wanted_of(), screen, fake.write_to)
    assert follower.follow(SaidLines(fake.said), status) == "finished:completed"
    assert "the last words" in fake.out.getvalue()
    assert issubclass(Stopped, BaseException)


def test_each_complete_run_ends_with_its_report(
    fake: Fake, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[list[Path], Path]] = []
    monkeypatch.setattr(
        "fedstrata.report.write_report", lambda runs, path: written.append((runs, path))
    )
    folders = [begun(here / "outputs" / name) for name in ("one", "two")]
    fake.play = lambda: [fake.say("run", str(folder)) for folder in folders]  # type: ignore[assignment,func-returns-value]
    assert ended("seed=1,2") == 0
    assert written == [([folder], folder / "report.html") for folder in folders]
    out = fake.out.getvalue()
    assert f"report: {folders[1]}/report.html\n" in out
    assert out.endswith(f"compare them: fedstrata report {folders[0]} {folders[1]}\n")
