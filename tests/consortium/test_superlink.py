"""What a SuperLink answers: a refusal is final, and one that is away is waited for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import grpc
import pytest
from flwr.common.logger import ConsoleHandler
from flwr.proto.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server

from consortium.superlink import (
    Away,
    Outcome,
    SuperLink,
    last_results,
    last_round,
    outcome,
    run_flwr,
)
from fedstrata.support.errors import UserError
from server_app.outcome import outcome as outcome_words
from server_app.report import round_line, whereabouts
from server_app.rounds.records import RoundRecord

FAILED = "finished:failed"
Fate = tuple[str, int]  # how a run ends, and the last round that it completes


def test_an_unknown_connection_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    with pytest.raises(UserError, match="nowhere"):
        SuperLink("nowhere").runs()
    with pytest.raises(UserError, match="nowhere"):
        run_flwr("list", "nowhere")


def test_a_superlink_that_is_not_there_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    entry = '[superlink.gone]\naddress = "127.0.0.1:9"\ninsecure = true\n'
    (tmp_path / "config.toml").write_text(entry)
    with pytest.raises(Away):
        SuperLink("gone").runs()
    with pytest.raises(Away):
        run_flwr("list", "gone")


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Yield what names a connection to a SuperLink (a real server) that raises, or aborts with a code."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))

    class Servicer(ControlServicer):
        code = ""

        def ListRuns(self, request: object, context: grpc.ServicerContext) -> NoReturn:
            if self.code:
                context.abort(getattr(grpc.StatusCode, self.code), "no\nand a lot besides")
            raise RuntimeError("(sqlite3.OperationalError) database is locked\n[SQL: UPDATE task]")

    servicer = Servicer()
    server = grpc.server(ThreadPoolExecutor(2))
    add_ControlServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    entry = f'[superlink.failing]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (tmp_path / "config.toml").write_text(entry)
    server.start()

    def connection(code: str) -> str:
        servicer.code = code
        return "failing"

    yield connection
    server.stop(None)


def test_a_superlink_with_a_server_error_counts_as_away(
    failing: Callable[[str], str],
) -> None:
    with pytest.raises(Away, match=r"database is locked$"):
        SuperLink(failing("")).runs()
    with pytest.raises(Away, match="database is locked"):
        run_flwr("list", failing(""))


@pytest.mark.parametrize(
    ("code", "away"),
    [
        ("INTERNAL", True),
        ("RESOURCE_EXHAUSTED", True),
        ("UNAUTHENTICATED", False),
        ("PERMISSION_DENIED", False),
        ("UNIMPLEMENTED", False),
    ],
)
def test_a_superlink_that_says_no_is_not_waited_for(
    failing: Callable[[str], str], code: str, away: bool
) -> None:
    with pytest.raises(UserError, match=rf"{code}: no$") as raised:
        SuperLink(failing(code)).runs()
    assert isinstance(raised.value, Away) == away


def test_our_own_words_do_not_count_as_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    with pytest.raises(UserError, match="nowhere") as raised:
        run_flwr("run", str(tmp_path), "nowhere", "-c", 'overrides="unavailable"')
    assert not isinstance(raised.value, Away)


@pytest.mark.parametrize(
    "begin",
    [
        "\x1b[92mINFO \x1b[0m:     ",
        "INFO :     ",
        "\x1b[92mINFO 2026-01-31 09:10:11,123\x1b[0m:     ",
    ],
)
def test_rounds_are_read_at_the_beginning_of_lines_only(begin: str) -> None:
    lines = [
        "round 1/8: 3 of 3 sites, 1.0 s",
        "round 2/8: 2 of 3 sites, 1.0 s",
        "  refused: site-00: round 9/8: 3 of 3 sites",
        "round 3: nobody took part (site-00: round 9/8: ); it is played again",
        "these sites cannot take part:",
        "  1: round 9/8: 3 of 3 sites",
    ]
    assert last_round("".join(f"{begin} {line}\n" for line in lines)) == 2
    assert last_round("") == 0


def test_a_logged_round_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    handler = ConsoleHandler(stream=sys.stdout)
    for line in round_line(RoundRecord(4, participants=["site-00"]), 8).split("\n"):
        handler.emit(logging.LogRecord("flwr", logging.INFO, "", 0, line, (), None))
    assert last_round(capsys.readouterr().out) == 4


def test_what_came_of_a_run_is_read_as_the_app_logs_it(capsys: pytest.CaptureFixture[str]) -> None:
    handler = ConsoleHandler(stream=sys.stdout)
    site = {"task": "age", "kind": "classes", "accuracy": 0.5, "loss": 0.7, "examples": 4.0}
    record = RoundRecord(2, participants=["site-00"], sites={"site-00": site})

    def logged(*lines: str) -> Outcome:
        for line in lines:
            handler.emit(logging.LogRecord("flwr", logging.INFO, "", 0, line, (), None))
        return outcome(capsys.readouterr().out)

    assert logged() == Outcome(0, "", "")
    begun = ["run march: results go to /srv/runs/march", *round_line(record, 8).split("\n")]
    assert logged(*begun) == Outcome(2, "accuracy 50.00 %, loss 0.7000", "/srv/runs/march")
    nothing = dict.fromkeys(("alone_accuracy", "pooled_accuracy"))
    means = {"accuracy": 0.6, "majority_accuracy": 0.5, **nothing}
    final = {"sites": {"site-00": site}, "tasks": {}, "mean": means, "weighted_mean": means}
    ended = outcome_words({**final, "sites": {"site-00": {**site, **nothing, **means}}})
    assert logged(*begun, *ended.split("\n")).result == "majority class 50.00 %, federated 60.00 %"


def test_where_results_are_is_read_as_the_app_logs_it(capsys: pytest.CaptureFixture[str]) -> None:
    handler = ConsoleHandler(stream=sys.stdout)
    lines = whereabouts(Path("/srv/runs/march/results.json"), "fetch {path}", "coordinator", "app")
    for line in ("  refused: north: results: /etc/passwd", *lines):
        handler.emit(logging.LogRecord("flwr", logging.INFO, "", 0, line, (), None))
    assert last_results(capsys.readouterr().out) == (
        "results: /srv/runs/march/results.json on coordinator, of user app",
        "fetch them: fetch /srv/runs/march/results.json",
    )
    assert last_results("") == ()
