"""What the benchmark of the wire says follows from the bytes that it counted."""

from __future__ import annotations

import importlib
import socket
import time
import tomllib
from pathlib import Path

import pytest

from benchmarks.accuracy.study import Case, deciding
from benchmarks.flower.processes import REPOSITORY
from benchmarks.flower.proxy import DOWN, UP
from benchmarks.report.tables import Figure, write
from benchmarks.wire import (
    CASES,
    EXACT,
    STOCK,
    Counted,
    Meter,
    counted,
    faces,
    har,
    main,
    measured_before,
    quick,
    table,
)
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned

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
    assert counted(meters, [10.0, 20.0, 30.0], [999, 60, 80]) == Counted(20.0, 20.0, 35.0)
    assert counted(meters, [30.0], [60]) == Counted(1039.0, 40.0, 30.0)


def test_the_table_says_how_many_times_fewer() -> None:
    setup = faces(Path("/body"))
    bytes_ = {
        STOCK: Counted(40e6, 80e6, 100e6),
        EXACT.name: Counted(30e6, 30e6, 60e6),
        "few": Counted(1e6, 1e6, 1e6),
    }
    accuracy = {STOCK: Figure((0.6,)), EXACT.name: Figure((0.9,)), "few": Figure((0.895,))}
    rows = table(setup, bytes_, accuracy).rows
    assert rows[STOCK][:6] == ("40.000", "80.000", "120.000", "100.000", "1.20", "-")
    assert rows[EXACT.name][:6] == ("30.000", "30.000", "60.000", "60.000", "1.00", "2.0")
    assert rows["few"][3:6] == ("1.000", "2.00", "60.0")
    assert [rows[case][7] for case in bytes_] == ["-30.00", "-", "-0.50"]
    assert table(setup, bytes_, {}).rows[EXACT.name][6:] == (None, "-")


def test_bytes_that_are_counted_again_keep_the_accuracy(tmp_path: Path) -> None:
    setup = faces(Path("/body"))
    bytes_ = {STOCK: Counted(4, 8, 10), EXACT.name: Counted(3, 3, 6)}
    accuracy = {STOCK: Figure((0.6, 0.7)), EXACT.name: None}
    written, made = tmp_path / "wire-faces.json", [table(setup, bytes_, accuracy)]
    write(tmp_path, "wire-faces", made, command="with seeds")
    found, made_with = measured_before(written)
    assert found == accuracy
    assert made_with is not None
    assert made_with["command"] == "with seeds"
    write(tmp_path, "wire-faces", made, command="again", more={"accuracy_from": made_with})
    assert measured_before(written) == (accuracy, made_with)
    assert measured_before(tmp_path / "wire-har.json") == ({}, None)


def test_data_that_is_named_and_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--har", str(tmp_path / "har.npz"), "--bytes-only"])
    assert f"--har: there is no {tmp_path / 'har.npz'}" in capsys.readouterr().err


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_can_be_composed_and_is_what_it_is_called(case: Case) -> None:
    for setup in (faces(Path("/body")), har(Path("/har.npz"))):
        config = compose(setup.experiment, [*setup.counted, *case.overrides])
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


def test_quick_is_of_measurements_with_fewer_sites_and_codings() -> None:
    short, whole = quick(Path("/har.npz")), har(Path("/har.npz"))
    assert (short.experiment, short.stock, short.root) == (whole.experiment, "mlp", whole.root)
    assert short.name != whole.name
    assert len(short.tasks) == 1
    assert {case.name for case in short.cases} < {case.name for case in whole.cases}


def test_the_stock_app_has_the_network_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks/stock_app"))
    stock = importlib.import_module("stock.task").network(har(Path("/har.npz")).stock)
    plan = plan_for(compose("har", []), federation="any", weights="")
    ours = build_partitioned(plan, make_method(plan.method), input_shape=(561,), classes=6).network
    assert [p.shape for p in stock.parameters()] == [p.shape for p in ours.parameters()]


def test_the_stock_app_takes_the_main_experiments_network_where_nothing_is_said() -> None:
    written = tomllib.loads((REPOSITORY / "benchmarks/stock_app/pyproject.toml").read_text())
    assert written["tool"]["flwr"]["app"]["config"]["model"] == faces(Path("/body")).stock
