"""A run's folder is read as it is: complete, going on, or given up by a process that died."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.protocol.progress import Progress, write_progress
from fedstrata.runs.folder import RunView, find_run, list_runs, read_run
from fedstrata.support.errors import UserError

RESULTS: dict[str, Any] = {
    "run": "faces-1",
    "config": {"strategy": {"rounds": 4}},
    "sites": {},
    "participation": {},
    "rounds": [{"round": 1}],
    "final": None,
    "deployment": None,
}


def make_run(path: Path, progress: Progress | None = None, **results: Any) -> Path:
    path.mkdir()
    begun = {"experiment": "faces", "config": RESULTS["config"]}
    (path / "run.json").write_text(json.dumps(begun))
    (path / "results.json").write_text(json.dumps({**RESULTS, **results}))
    if progress is not None:
        write_progress(path, progress)
    return path


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Hold the lock of the ServerApp."""
    descriptor = os.open(path / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_checkpoint_that_results_lack_counts_as_a_round(tmp_path: Path) -> None:
    path = make_run(tmp_path / "one", Progress(state="stopped", round=1, rounds=4))
    for name in ("round-000001", "round-000003", ".round-000004.tmp", "round-5"):
        (path / "checkpoints" / name).mkdir(parents=True)
    assert read_run(path).round == 3
    shutil.rmtree(path / "checkpoints")
    (path / "checkpoints").write_bytes(b"a file")
    with pytest.raises(UserError, match="checkpoints cannot be read: Not a directory"):
        read_run(path)


def test_rounds_without_a_checkpoint_count_only_while_the_run_goes_on(tmp_path: Path) -> None:
    progress = Progress(state="running", round=4, rounds=9, complete=3)
    path = make_run(tmp_path / "one", progress)
    with written_to(path):
        assert read_run(path).round == 3
    assert (read_run(path).state, read_run(path).round) == ("interrupted", 1)


def test_a_run_goes_on_while_its_serverapp_lives(tmp_path: Path) -> None:
    path = make_run(tmp_path / "one", Progress(state="evaluating", round=4, rounds=4))
    with written_to(path):
        run = read_run(path)
        assert (run.state, run.active) == ("evaluating", True)
        assert (run.round, run.rounds, run.experiment) == (1, 4, "faces")
    run = read_run(path)
    assert (run.state, run.active) == ("interrupted", False)


def test_to_look_does_not_keep_a_serverapp_out(tmp_path: Path) -> None:
    path = make_run(tmp_path / "one", Progress(state="running"))
    with written_to(path):
        pass
    read_run(path)
    with written_to(path):  # would wait forever
        pass


@pytest.mark.parametrize("state", ["complete", "failed", "stopped"])
def test_an_end_is_said(state: Any, tmp_path: Path) -> None:
    path = make_run(tmp_path / "one", Progress(state=state, reason="why"))
    assert (read_run(path).state, read_run(path).reason) == (state, "why")


def test_a_run_without_progress_is_judged_by_its_results(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path / "one")).state == "interrupted"
    assert read_run(make_run(tmp_path / "two", final={"tasks": {}})).state == "complete"


def test_the_folder_one_is_in_is_named_by_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (make_run(runs / "one") / "checkpoints").mkdir()
    monkeypatch.chdir(runs / "one")
    assert find_run(".", runs).name == "one"
    monkeypatch.chdir("checkpoints")
    assert find_run("..", runs).name == "one"


def test_a_run_is_found_by_name_by_path_and_as_the_latest(tmp_path: Path) -> None:
    make_run(tmp_path / "old", Progress(state="complete", began=1.0))
    new = make_run(tmp_path / "new", Progress(state="complete", began=2.0))
    assert find_run("old", tmp_path).name == "old"
    assert find_run(str(new), tmp_path / "elsewhere").path == new
    assert find_run("latest", tmp_path).name == "new"
    with pytest.raises(UserError, match=r"there is no run 'nwe' in .*; nearest: 'new'"):
        find_run("nwe", tmp_path)


def test_runs_are_listed_the_latest_first_and_a_damaged_one_by_its_error(tmp_path: Path) -> None:
    make_run(tmp_path / "old", Progress(state="complete", began=1.0))
    make_run(tmp_path / "new", Progress(state="failed", began=2.0))
    (make_run(tmp_path / "odd") / "results.json").write_text("[]")
    (tmp_path / "nothing").mkdir()
    listed = list(list_runs(tmp_path))
    assert [run.name for run in listed if isinstance(run, RunView)] == ["new", "old"]
    assert [str(e) for e in listed if isinstance(e, UserError)] == [
        f"{tmp_path}/odd/results.json cannot be read: it is no object"
    ]


def test_a_folder_that_holds_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder of a run"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="there is no run in"):
        find_run("latest", tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(changed=st.dictionaries(st.sampled_from([*RESULTS]), JSON, max_size=3))
def test_any_json_is_read_or_refused(
    changed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = make_run(tmp_path_factory.mktemp("runs") / "one", **changed)
    with contextlib.suppress(UserError):
        read_run(path)
