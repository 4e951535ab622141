"""A finished run is measured again: the same figures, nothing trained, and what is missing is said."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedstrata.protocol import kinds
from fedstrata.support.errors import UserError
from server_app.compose import compose
from server_app.plans import plans
from server_app.run_names import find_run
from server_app.saved_run import SavedRun, check_table
from site_guard.signatures import plan_digest
from tests.helpers.runs import DOCS, PLAIN, grid_of, without_times
from tests.loopback import simulate

TRAINED = [
    *PLAIN,
    "groups.personal=[head.out, 'type:BatchNorm2d']",
    "strategy.rounds=3",
    "seed=7",
    "weights=central",
    "weights.examples=64",
    "weights.identities=8",
    "weights.epochs=1",
    "groups.pretrained=[conv1,bn1]",
    "groups.common=[conv2,bn2,conv3,bn3]",
]
MEASURED = ["strategy.rounds=0", "strategy.poll=0.01", "weights=run", "weights.run=march"]


@pytest.fixture(scope="module")
def march(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a finished run with a frozen start, and its results."""
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(output.parent / "home-of-march"))
        results, _ = simulate(output, "faces", TRAINED, name="march")
    return output, results


@pytest.fixture(autouse=True)
def home(march: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every test find the pre-trained start of the run."""
    monkeypatch.setenv("FEDSTRATA_HOME", str(march[0].parent / "home-of-march"))


def copied(march: tuple[Path, dict[str, Any]], output: Path) -> dict[str, Any]:
    shutil.copytree(march[0], output, dirs_exist_ok=True)
    return march[1]


@pytest.mark.parametrize("state", ["last", "best"])
def test_a_finished_run_is_measured_to_the_bit_and_nothing_is_trained(
    tmp_path: Path, march: tuple[Path, dict[str, Any]], state: str
) -> None:
    before = copied(march, tmp_path)
    grid = grid_of(tmp_path)
    there = sorted(tmp_path.glob(f"{before['federation']}/**/*"))
    after, _ = simulate(
        tmp_path, "faces", [*MEASURED, f"weights.state={state}", "simulation.sites=4"], grid=grid
    )
    expected = before["final"] if state == "last" else before["best"]
    for name, site in after["final"]["sites"].items():
        assert without_times(site) == {**without_times(expected["sites"][name]), "steps": 0}
    assert len(after["final"]["sites"]) == 4
    assert after["rounds"] == []
    number = 3 if state == "last" else before["best"]["round"]
    assert after["measured_run"] == {
        "run": "march",
        "state": state,
        "round": number,
        "newcomers": [],
    }
    asked = {m.metadata.message_type for m in grid.sent}
    assert kinds.EVALUATE in asked
    assert asked.isdisjoint({kinds.TRAIN, kinds.ALONE, kinds.DEPLOY})
    assert sorted(tmp_path.glob(f"{before['federation']}/**/*")) == there  # the sites wrote nothing
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(after, schema)


def test_a_site_that_lost_its_layers_and_one_that_is_new_are_said(
    tmp_path: Path, march: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    before = copied(march, tmp_path)
    sites = tmp_path / before["federation"] / "sites"
    (sites / "site-00" / "round-000003.safetensors").write_bytes(b"")
    shutil.rmtree(sites / "site-01")
    grid = grid_of(tmp_path)
    grid.nodes[104] = {"partition-id": 4, "num-partitions": 5}
    with caplog.at_level(logging.INFO, "flwr"):
        after, _ = simulate(tmp_path, "faces", [*MEASURED, "cross_site=models"], grid=grid)
    assert set(after["final"]["refused"]) == {"site-00", "site-01"}
    for reason in after["final"]["refused"].values():
        assert "no longer on this site's disk" in reason
    assert after["cross_site"]["left_out"].keys() == {"site-00", "site-01", "site-04"}
    assert "took no part in that run" in after["cross_site"]["left_out"]["site-04"]
    assert after["cross_site"]["missing"] == []
    assert after["measured_run"]["newcomers"] == ["site-04"]
    assert "took no part in that run" in caplog.text
    assert "may have been trained on" not in caplog.text


def test_models_that_a_run_did_not_write_are_not_measured(
    march: tuple[Path, dict[str, Any]],
) -> None:
    folder = find_run(march[0], "march", "")
    assert folder is not None
    begun = folder.begun()
    begun["config"]["keep_models"] = "last"
    own = replace(compose("faces", []), cross_site="models")
    for state in ("last", "best"):
        given = SavedRun(folder, state, begun)
        if state == "last":
            check_table(given.config(own), given, deployed=False)
            continue
        with pytest.raises(UserError, match=r"best models .* wrote none \(keep_models=last\)"):
            check_table(given.config(own), given, deployed=False)


def test_other_data_are_measured_and_said(
    tmp_path: Path, march: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    before = copied(march, tmp_path)
    note = tmp_path / before["federation"] / "sites" / "site-01" / "data.sha256"
    note.write_text("0" * 64)
    with caplog.at_level(logging.INFO, "flwr"):
        after, _ = simulate(tmp_path, "faces", MEASURED)
    assert "site-01" in after["final"]["sites"]
    assert "may have been trained on" in caplog.text
    assert note.read_text() == "0" * 64


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy.rounds=0"], r"strategy\.rounds=0 trains nothing: add weights=run"),
        (["weights=run", "weights.run=march"], r"trains nothing: add strategy\.rounds=0"),
        ([*MEASURED, "deployment.epochs=1"], "leave deployment.epochs out"),
        ([*MEASURED, "data.size=32"], r"takes data\.size from the run that it measures: leave"),
        ([*MEASURED, "model=mlp"], "takes model from the run that it measures"),
        ([*MEASURED, "weights.run=april"], "weights.run: .*holds no run 'april'; nearest: 'march'"),
        ([*MEASURED, "weights.state=worst"], r"weights\.state must be one of last, best"),
        (["strategy.rounds=0", "weights=run"], "weights.run"),
        (["strategy.rounds=-1"], "0 or greater"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_site_is_asked(
    tmp_path: Path, march: tuple[Path, dict[str, Any]], overrides: list[str], message: str
) -> None:
    copied(march, tmp_path)
    grid = grid_of(tmp_path)
    with pytest.raises(UserError, match=message):
        simulate(tmp_path, "faces", overrides, grid=grid)
    assert kinds.EVALUATE not in {m.metadata.message_type for m in grid.sent}


def test_a_run_without_a_best_state_or_a_round_says_so(
    tmp_path: Path, march: tuple[Path, dict[str, Any]]
) -> None:
    copied(march, tmp_path)
    (tmp_path / "march" / "results.json").unlink()
    with pytest.raises(UserError, match=r"names no best state: write weights\.state=last"):
        simulate(tmp_path, "faces", [*MEASURED, "weights.state=best"])
    shutil.rmtree(tmp_path / "march" / "checkpoints")
    with pytest.raises(UserError, match="has no round that was completed"):
        simulate(tmp_path, "faces", MEASURED)


def test_the_start_of_the_run_must_still_be_there(
    tmp_path: Path, march: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(march, tmp_path)
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"started from the weights .* not here any more"):
        simulate(tmp_path, "faces", MEASURED)


def test_the_plan_of_a_measurement_is_known_before_and_can_be_signed(
    tmp_path: Path, march: tuple[Path, dict[str, Any]]
) -> None:
    copied(march, tmp_path)
    run_config = {
        "experiment": "faces",
        "overrides": " ".join(MEASURED),
        "output-dir": str(tmp_path),
    }
    (known,) = plans(run_config)
    _, grid = simulate(tmp_path, "faces", MEASURED)
    sent = [str(message.content[kinds.PLAN]["json"]) for message in grid.sent]
    assert {plan_digest(plan) for plan in sent} == {plan_digest(known)}
    started = {json.loads(plan)["weights"] for plan in sent}
    assert json.loads(known)["weights"] in started
    assert len(json.loads(known)["weights"]) == 64


def test_a_measurement_of_a_run_that_is_not_here_is_not_signed(tmp_path: Path) -> None:
    run_config = {
        "experiment": "faces",
        "overrides": " ".join(MEASURED),
        "output-dir": str(tmp_path),
    }
    with pytest.raises(UserError, match="sign where that run's folder is"):
        plans(run_config)
