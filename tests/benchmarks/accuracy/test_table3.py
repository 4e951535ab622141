"""Table III has its five cases beside the majority class and the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.table3 import Faces, Table3, drawn, utkface
from benchmarks.collect import page
from server_app.compose import compose
from strategies.config import Config
from tests.helpers.runs import SMALL
from tests.helpers.simulators import CannedSimulator

DATA = tuple(each for each in SMALL if not each.startswith(("model", "weights", "groups")))
FACES = Faces(
    "drawn",
    "a few drawn faces",
    "faces",
    4,
    None,
    (*DATA, "model.head=[8,8]", "strategy.fraction=0.5"),
    ("groups.common=[]", "groups.task=[head]", "groups.personal=[]"),
    ("groups.common=[head.0]", "groups.task=[head.1,head.out]", "groups.personal=[]"),
    {"gender": 90.0, "pose": 80.0},
    ("train.optimizer.lr=0.005",),
    "all",
)


def test_the_table_has_every_case_and_its_files(
    tmp_path: Path, canned_central: list[Config]
) -> None:
    weights = tmp_path / "body.npz"
    weights.touch()
    Table3(FACES, weights, (1,)).run(CannedSimulator(tmp_path), tmp_path, "python -m it")
    written = json.loads((tmp_path / "table3-drawn.json").read_text())
    rows = written["tables"][0]["rows"]
    assert list(rows) == [
        "centralized separate",
        "centralized joint",
        "centralized joint, all labels at once",
        "distributed separate",
        "distributed separate FL",
        "distributed multi-task FL",
        "majority class",
        "*the paper, on photographs with VGG-Face*",
    ]
    assert rows["centralized joint"]["pose, %"]["values"] == [0.9]
    once = rows["centralized joint, all labels at once"]
    assert once["gender, %"]["values"] == [0.0]  # the first label
    assert once["pose, %"]["values"] == [0.3]  # the fourth
    asked = [c for c in canned_central if c.data["tasks"] == ("all",)]
    assert [c.groups["task"] for c in asked] == [()]
    assert rows["majority class"]["gender, %"]["values"] == [0.4]
    federated, alone = (
        rows[f"distributed {name}"]["gender, %"]["values"] for name in ("multi-task FL", "separate")
    )
    assert federated[0] - alone[0] == pytest.approx(0.12)
    assert "The centralized cases have train.optimizer.lr=0.005" in written["notes"][0]
    assert "one network with sigmoid outputs" in written["notes"][1]
    assert "(above on every task)" in written["notes"][2]
    assert all(each.startswith("flwr run . --stream") for each in written["commands"].values())
    assert written["bytes"]["distributed separate FL"] == {"bytes_down": 20.0, "bytes_up": 10.0}
    # As many rounds as a site of half of the sites takes part in.
    assert {(c.strategy.rounds, c.strategy.fraction) for c in canned_central} == {(1, 1.0)}
    assert {c.train.optimizer.lr for c in canned_central} == {0.005}
    for name in ("table3-drawn.png", "table3-drawn-sites.png"):
        assert (tmp_path / name).exists()
        assert f"(results/{name})" in page(tmp_path)


@pytest.mark.parametrize("faces", [drawn(40), utkface(Path("/faces"), 30)], ids=["drawn", "real"])
def test_both_federated_cases_are_configurations(faces: Faces) -> None:
    study = Table3(faces, Path("/w.npz"), (1,)).study()
    for groups in (faces.separate, faces.multitask):
        config = compose(study.experiment, [*study.overrides, *groups])
        assert config.groups["pretrained"] == ("features",)
