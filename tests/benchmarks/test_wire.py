"""What the benchmark of the wire says follows from the bytes that it counted."""

from __future__ import annotations

import os
import socket
import time
import tomllib
from pathlib import Path

import pytest

from benchmarks.processes import REPOSITORY
from benchmarks.proxy import DOWN, UP
from benchmarks.study import deciding
from benchmarks.tables import Figure
from benchmarks.wire import (
    CASES,
    EXACT,
    STOCK,
    Counted,
    Meter,
    check,
    counted,
    faces,
    har,
    note_rounds,
    quick,
    table,
)
from server_app.compose import compose

PATIENCE = 60  # seconds


def test_every_byte_of_a_connection_is_counted_with_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Meter(server.getsockname()[1]) as meter:
        server.settimeout(PATIENCE)
        before = time.time()
        with socket.create_connection(("127.0.0.1", meter.port), PATIENCE) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"x" * 1000)
                taken = 0
                while taken < 1000:
                    taken += len(far.recv(1000))
                far.sendall(b"yy")
                assert near.recv(1) == b"y"
        after = time.time()
    assert meter.between(before, after, UP) == 1000
    assert meter.between(before, after, DOWN) == 2
    assert meter.between(after, after + 1, UP) == 0


def test_a_round_is_the_mean_over_sites_and_rounds_after_the_first() -> None:
    meters = [Meter(0), Meter(0)]
    for meter in meters:
        meter.passed += [(UP, 1.0, 999), (UP, 11.0, 10), (DOWN, 12.0, 40), (UP, 25.0, 30)]
        meter.passed += [(DOWN, 31.0, 999)]
    assert counted(meters, [10.0, 20.0, 30.0]) == Counted(20.0, 20.0)
    assert counted(meters, [30.0]) == Counted(1039.0, 40.0)


def test_rounds_end_with_their_checkpoints_run_by_run(tmp_path: Path) -> None:
    for run, number, when in (("a", 1, 5.0), ("a", 2, 7.0), ("b", 1, 9.0)):
        folder = tmp_path / run / "checkpoints" / f"round-{number:06d}"
        folder.mkdir(parents=True)
        os.utime(folder, (0, when))
    ended: dict[Path, dict[str, float]] = {}
    note_rounds(tmp_path, ended)
    assert ended == {
        tmp_path / "a": {"round-000001": 5.0, "round-000002": 7.0},
        tmp_path / "b": {"round-000001": 9.0},
    }


def test_the_table_says_how_many_times_fewer() -> None:
    setup = faces(Path("/body"))
    bytes_ = {STOCK: Counted(40e6, 80e6), EXACT.name: Counted(30e6, 30e6), "few": Counted(1e6, 1e6)}
    accuracy = {STOCK: Figure((0.6,)), EXACT.name: Figure((0.9,)), "few": Figure((0.895,))}
    rows = table(setup, bytes_, accuracy).rows
    assert rows[STOCK][:4] == ("40.000", "80.000", "120.000", "-")
    assert rows[EXACT.name][:4] == ("30.000", "30.000", "60.000", "2.0")
    assert (rows[STOCK][5], rows[EXACT.name][5], rows["few"][5]) == ("-30.00", "-", "-0.50")
    assert table(setup, bytes_, {}).rows[EXACT.name][4:] == (None, "-")


def test_a_run_that_lost_a_site_is_not_counted() -> None:
    fine = {"rounds": [{"round": 1, "participants": ["a", "b"]}], "final": {}}
    check(fine, "exact", 2)
    with pytest.raises(SystemExit, match=r"sites missed the rounds \[1\]"):
        check(fine, "exact", 3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_can_be_composed_and_is_what_it_is_called(case: object) -> None:
    assert case in CASES
    for setup in (faces(Path("/body")), har(Path("/har.npz"))):
        config = compose(setup.experiment, [*setup.counted, *case.overrides])  # type: ignore[attr-defined]
        up, down = (
            config.strategy.codings.from_site("common"),
            config.strategy.codings.to_site("common"),
        )
        assert up == down
        assert (up.name == "exact") == (case == EXACT)
        compose(setup.experiment, setup.whole)


def test_runs_of_before_there_was_a_choice_are_those_with_exact_coding() -> None:
    now = compose("faces", []).to_dict()
    strategy = {k: v for k, v in now["strategy"].items() if not k.startswith("coding")}
    assert deciding(now) == deciding({**now, "strategy": strategy})
    assert deciding(compose("faces", CASES[1].overrides).to_dict()) != deciding(now)


def test_quick_is_the_main_experiment_with_fewer_sites_and_codings() -> None:
    short, whole = quick(Path("/body")), faces(Path("/body"))
    assert short.counted == whole.counted
    assert short.name != whole.name
    assert len(short.tasks) == 2
    assert {case.name for case in short.cases} < {case.name for case in whole.cases}


def test_the_stock_app_has_the_networks_of_ours() -> None:
    written = tomllib.loads((REPOSITORY / "benchmarks/stock_app/pyproject.toml").read_text())
    stock = written["tool"]["flwr"]["app"]["config"]
    assert stock["model"] == faces(Path("/body")).stock
    assert tuple(compose("har", []).model["hidden"]) == (128, 64, 32)
    assert "(561, 128, 64, 32)" in (REPOSITORY / "benchmarks/stock_app/stock/task.py").read_text()
