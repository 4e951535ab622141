"""TensorBoard's own reader finds the numbers of results.json, also of a run that was resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedstrata.protocol import kinds
from server_app.trackers.logged import of_end, of_round, parameters
from server_app.trackers.tensorboard import TensorBoard
from tests.helpers.runs import SMALL, Crash, grid_of
from tests.loopback import simulate

pytest.importorskip("tensorboard")
CHOSEN = [*SMALL, "tracker=tensorboard", "baselines.alone=false"]


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


def scalars(folder: Path) -> dict[str, dict[int, list[float]]]:
    found, values = read(folder), dict[str, dict[int, list[float]]]()
    for tag in found.Tags()["scalars"]:
        for event in found.Scalars(tag):
            values.setdefault(tag, {}).setdefault(event.step, []).append(event.value)
    return values


def check(folder: Path, results: dict[str, Any]) -> None:
    found = scalars(folder)
    for record in results["rounds"]:
        for name, value in of_round(record).items():
            assert found[name][record["round"]] == [pytest.approx(value, rel=1e-6)]
    for name, value in of_end(results, "final").items():
        assert found[name][len(results["rounds"]) + 1] == [pytest.approx(value, rel=1e-6)]


def test_a_run_and_its_resumed_end_are_one_run_of_tensorboard(tmp_path: Path) -> None:
    def dies(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type == kinds.TRAIN and message.content["order"]["round"] == 2:
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path, "faces", CHOSEN, grid=grid_of(tmp_path, dies), name="one")
    folder = tmp_path / "one" / "tensorboard"
    assert scalars(folder)["round/seconds"].keys() == {1}
    results, _ = simulate(tmp_path, "faces", CHOSEN, grid=grid_of(tmp_path), resume="one")
    check(folder, results)
    tags = read(folder).Tags()
    assert "parameters/text_summary" in tags["tensors"]
    assert "_hparams_/session_start_info" in read(folder).summary_metadata


def test_what_was_written_of_a_round_that_did_not_count_is_void(tmp_path: Path) -> None:
    options = {"name": "tensorboard", "folder": ""}
    first = TensorBoard(options, tmp_path)
    known = first.begin("", 1)
    for step in (1, 2, 3):
        first.metrics({"task/a/accuracy": float(step)}, step)
    again = TensorBoard(options, tmp_path)
    again.begin(known, 3)
    again.metrics({"task/a/accuracy": 7.0}, 3)
    again.end("complete")
    assert scalars(Path(again.place)) == {"task/a/accuracy": {1: [1.0], 2: [2.0], 3: [7.0]}}


def test_a_folder_of_all_runs_has_one_for_each(tmp_path: Path) -> None:
    tracker = TensorBoard({"name": "tensorboard", "folder": str(tmp_path / "all")}, tmp_path / "r1")
    tracker.begin("", 1)
    tracker.parameters({"model.name": "mlp", "data.classes": "a|b\n<c>", "seed": 1})
    tracker.end("failed")
    found = read(tmp_path / "all" / "r1")
    text = found.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| data.classes | a\\|b &lt;c> |" in text
    state = found.Tensors("state/text_summary")[0].tensor_proto.string_val[0].decode()
    assert state == "failed"


def test_parameters_of_a_run_are_taken(tmp_path: Path) -> None:
    results, _ = simulate(tmp_path, "faces", [*CHOSEN, "strategy.rounds=1"], sites=2, name="x")
    assert parameters(results)["tracker.name"] == "tensorboard"
    check(tmp_path / "x" / "tensorboard", results)
