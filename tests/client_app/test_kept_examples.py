"""A site notes how it read its data, and reads its test examples again; other data are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client_app.context import open_site
from client_app.data.pflbench import loader
from client_app.kept_examples import DRAWN, HOW_READ, read_again, write_how_read
from client_app.node_config import read_node_settings
from client_app.site_model import site_card
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models.model_card import ModelCard
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.model_cards import card
from tests.helpers.published_files import mnist_files
from tests.helpers.site_contexts import opened


@pytest.fixture
def kept(plan: Plan) -> tuple[ModelCard, Path]:
    context = opened(plan)
    write_how_read(context)
    return site_card(context, "last", 1, metrics={}), context.store.folder / HOW_READ


def test_the_same_examples_are_read_again(plan: Plan, kept: tuple[ModelCard, Path]) -> None:
    inputs, targets, places = read_again(*kept)
    test = opened(plan).data.test
    every = np.arange(len(test))
    assert np.array_equal(inputs.batch(every).numpy(), test.inputs.batch(every).numpy())
    assert np.array_equal(targets, test.labels)
    assert places[:2] == ((DRAWN, 0), (DRAWN, 1))
    assert kept[1].stat().st_mode & 0o777 == 0o600


def test_data_in_files_need_no_note(plan: Plan) -> None:
    context = opened(plan)
    (context.store.folder / HOW_READ).unlink(missing_ok=True)
    write_how_read(replace(context, plan=replace(plan, data={"name": "images"})))
    assert not (context.store.folder / HOW_READ).exists()


def test_other_data_than_those_of_the_run_are_refused(kept: tuple[ModelCard, Path]) -> None:
    described, path = kept
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "index": 1}))
    with pytest.raises(UserError, match="are not those of the run any more"):
        read_again(described, path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"root": 3}', b'{"site": null, "more": 1}', b"x" * 70_000]
)
def test_a_damaged_note_is_named(kept: tuple[ModelCard, Path], content: bytes) -> None:
    kept[1].write_bytes(content)
    with pytest.raises(UserError, match=r"test-examples\.json cannot be read"):
        read_again(*kept)


def test_a_card_without_a_plan_is_refused(kept: tuple[ModelCard, Path]) -> None:
    with pytest.raises(UserError, match="has no plan"):
        read_again(card(), kept[1])


def test_a_published_data_set_is_read_again_and_never_fetched(tmp_path: Path) -> None:
    root = mnist_files(tmp_path / "mnist")
    wanted = ["data.download=true", "data.site_split.scheme=iid", "data.validation_fraction=0.2"]
    plan = plan_for(compose("pflbench", wanted), federation="run-1", weights="")
    node = {"partition-id": 0, "num-partitions": 2}
    context = open_site(read_node_settings(node, {"data-root": str(root)}), plan)
    write_how_read(context)
    path = context.store.folder / HOW_READ
    described = site_card(context, "last", 1, metrics={})
    test = context.data.test
    inputs, targets, places = read_again(described, path)
    every = np.arange(len(test))
    assert np.array_equal(inputs.batch(every).numpy(), test.inputs.batch(every).numpy())
    assert np.array_equal(targets, test.labels)
    assert {place[0].name for place in places} <= {each.name for each in root.iterdir()}
    for each in root.iterdir():
        each.unlink()
    loader._read_cached.cache_clear()
    with pytest.raises(UserError, match="has no train-images-idx3-ubyte"):
        read_again(described, path)
