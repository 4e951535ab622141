"""MLflow's own client finds the numbers of results.json; a server that is down costs no round."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedstrata.protocol import kinds
from server_app.trackers.logged import of_end, of_round, parameters
from server_app.trackers.mlflow import MOST_CHARACTERS, MLflow
from tests.helpers.runs import SMALL, Crash, grid_of
from tests.loopback import simulate

pytest.importorskip("mlflow")
CHOSEN = [*SMALL, "tracker=mlflow", "baselines.alone=false"]


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=folder.as_uri())


def runs(folder: Path, experiment: str = "fedstrata") -> list[Any]:
    client = client_of(folder)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def test_a_run_and_its_resumed_end_are_one_run_of_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def dies(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type == kinds.TRAIN and message.content["order"]["round"] == 2:
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path, "faces", CHOSEN, grid=grid_of(tmp_path, dies), name="one")
    folder = tmp_path / "mlruns"
    assert [run.info.status for run in runs(folder)] == ["FAILED"]
    results, _ = simulate(tmp_path, "faces", CHOSEN, grid=grid_of(tmp_path), resume="one")
    (run,) = runs(folder)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "one")
    wanted = {name: str(value)[:MOST_CHARACTERS] for name, value in parameters(results).items()}
    assert run.data.params == wanted
    client = client_of(folder)
    for name in of_round(results["rounds"][0]):
        history = client.get_metric_history(run.info.run_id, name)
        got = {each.step: each.value for each in history}
        assert got == {record["round"]: of_round(record)[name] for record in results["rounds"]}
    final = of_end(results, "final")
    assert {name: run.data.metrics[name] for name in final} == final


def test_a_run_that_was_deleted_there_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    options = {"name": "mlflow", "uri": str(tmp_path / "store"), "experiment": "mine"}
    tracker = MLflow(options, tmp_path / "r1")
    known = tracker.begin("0" * 32, 1)
    assert known != "0" * 32
    assert tracker.begin(known, 2) == known
    tracker.metrics({f"task/{number}/accuracy": 0.5 for number in range(1100)}, 1)
    tracker.parameters({"long": "x" * 1000})
    tracker.end("stopped")
    (run,) = runs(tmp_path / "store", "mine")
    assert run.info.status == "KILLED"
    assert len(run.data.metrics) == 1100
    assert run.data.params == {"long": "x" * MOST_CHARACTERS}


def test_a_database_is_taken_too(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = {"name": "mlflow", "uri": uri, "experiment": "fedstrata"}
    MLflow.check(options)
    tracker = MLflow(options, tmp_path / "r1")
    known = tracker.begin("", 1)
    tracker.metrics({"task/gender/accuracy": 0.5}, 3)
    tracker.end("complete")
    history = MlflowClient(tracking_uri=uri).get_metric_history(known, "task/gender/accuracy")
    assert [(each.step, each.value) for each in history] == [(3, 0.5)]


def test_a_server_that_is_down_costs_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        chosen = [*CHOSEN, f"tracker.uri={uri}"]
        with caplog.at_level("INFO", logger="flwr"):
            results, _ = simulate(tmp_path, "faces", chosen, sites=2)
    assert len(results["rounds"]) == 2
    assert results["final"] is not None
    text = caplog.text
    assert f"tracker: {uri} does not take what the run writes (" in text
    assert (
        f"writes to {uri} failed; rounds 1 to 2 are missing there, and results.json has them"
        in text
    )
