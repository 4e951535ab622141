"""A site's model file says what the model is, and where the site's test examples are."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from client_app.context import SiteContext
from client_app.site_model import (
    TEST_EXAMPLES,
    as_text,
    model_path,
    write_site_model,
    write_test_examples,
)
from fedstrata.protocol.plan import Plan
from fedstrata.protocol.task_kinds import LABELS, NUMBER, TaskKind
from models.model_file import network_of, read_model
from models.preprocessing import Pictures
from models.training.data import Places, Split
from strategies.method import Method
from tests.helpers.site_contexts import model_tensors, opened

SITE = SimpleNamespace(memory={})  # all that a plain method has at the site
METRICS = {"received": {"test": {"accuracy": 0.5, "auroc": None}}}


def site_with_files(plan: Plan, folder: Path) -> SiteContext:
    """Return a site whose test examples stand in files."""
    context = opened(plan)
    files = []
    for number in range(len(context.data.test)):
        path = folder / f"{number}.png"
        path.write_bytes(b"%d" % number)
        files.append(path)
    places = Places(tuple(files), tuple(range(len(files))))
    return replace(context, data=replace(context.data, test_places=places))


def test_the_card_says_what_the_model_is(plan: Plan) -> None:
    context = opened(plan)
    path = write_site_model(
        context,
        "best",
        2,
        site_round=SimpleNamespace(memory={"m": torch.ones(1)}),
        metrics=METRICS,
        tuned=["head.out.bias"],
    )
    assert path == context.store.folder / "models" / "best.safetensors"
    model = read_model(path)
    card = model.card
    assert (card.state, card.round, card.site, card.task) == ("best", 2, "site-00", "gender")
    assert (card.run, card.seed, card.method) == (plan.federation, plan.seed, "layers")
    assert (card.network.name, card.network.head) == ("small_cnn", (8,))
    assert card.preprocessing == Pictures(28, 3, (0.5,) * 3, (0.25,) * 3)
    assert card.examples == {"train": 24, "validation": 6, "test": 8}
    assert sum(card.classes["train"].values()) == 24
    assert card.metrics == METRICS
    assert card.tuned == ("head.out.bias",)
    assert card.data == context.data.digest
    assert card.plan == plan.to_json()
    assert card.start is not None
    assert card.start.content_hash == plan.weights
    assert sum(card.groups.values()) == len(model.network_tensors)
    assert "memory/m" in model.tensors
    network = network_of(model)
    own = model_tensors(context)
    assert all(torch.equal(own[name], t) for name, t in network.state_dict().items())


def test_each_state_has_a_file_of_its_own(plan: Plan) -> None:
    context = opened(plan)
    paths = {model_path(context.store, state) for state in ("deployed", "last", "best")}
    assert len(paths) == 3
    assert context.store.deployed in paths


def test_a_method_that_predicts_otherwise_is_named(plan: Plan) -> None:
    class Other(Method):
        name = "other"

        def predictor(self, site: object) -> torch.nn.Module:
            return torch.nn.Identity()

    context = replace(opened(plan), method=Other())
    path = write_site_model(context, "last", 1, site_round=SITE, metrics={})
    assert not read_model(path).card.predicts_alone


def test_the_test_examples_stay_at_the_site_for_its_user_alone(plan: Plan, tmp_path: Path) -> None:
    context = site_with_files(plan, tmp_path)
    write_site_model(context, "last", 1, site_round=SITE, metrics={})
    path = context.store.folder / TEST_EXAMPLES
    assert path.stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 8
    assert rows[3]["file"] == str(tmp_path / "3.png")
    assert rows[3]["row"] == "3"
    assert rows[3]["sha256"] == hashlib.sha256(b"3").hexdigest()
    names = [context.data.classes[label] for label in context.data.test.labels]
    assert [row["target"] for row in rows] == names


def test_a_file_name_that_is_no_text_is_written_as_its_bytes() -> None:
    assert as_text(Path(os.fsdecode(b"a/\xffx.png"))) == "a/\\udcffx.png"


def test_data_in_no_files_have_no_such_table(plan: Plan) -> None:
    context = opened(plan)
    write_site_model(context, "last", 1, site_round=SITE, metrics={})
    assert not (context.store.folder / TEST_EXAMPLES).exists()


@pytest.mark.parametrize(
    ("kind", "labels", "cells"),
    [
        (TaskKind(LABELS), [[1.0, np.nan], [0.0, 1.0]], [["1", ""], ["0", "1"]]),
        (TaskKind(NUMBER), [[1.25, np.nan], [-3.0, 2.0]], [["1.25", ""], ["-3.0", "2.0"]]),
    ],
)
def test_other_targets_have_a_column_each(
    plan: Plan, tmp_path: Path, kind: TaskKind, labels: list[list[float]], cells: list[list[str]]
) -> None:
    data = site_with_files(plan, tmp_path).data
    test = Split(data.test.take(np.arange(2)).inputs, np.array(labels, np.float32))
    assert data.test_places is not None
    places = Places(data.test_places.files[:2], data.test_places.rows[:2])
    data = replace(data, kind=kind, classes=("a", "b"), test=test, test_places=places)
    write_test_examples(tmp_path / "t.csv", data)
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [[row["a"], row["b"]] for row in rows] == cells
