"""The models that a run offers."""

from __future__ import annotations

import pytest

from fedstrata.protocol.offered_models import check_assigned, check_models, task_of, variant_of
from fedstrata.support.errors import UserError

TWO = {"big": {"name": "resnet18"}, "edge": {"name": "small_cnn"}}


def test_a_variant_is_the_task_where_there_is_one_network() -> None:
    assert (variant_of("grade", ""), variant_of("grade", "edge")) == ("grade", "grade/edge")
    assert [task_of(each) for each in ("grade", "grade/edge")] == ["grade", "grade"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"a/b": {"name": "mlp"}}, "cannot be a model's name"),
        ({"edge": {"hidden": [3]}}, r"models\.edge is no network: choose one with \+model@models"),
        ({"edge": "mlp"}, "is no network"),
        ({f"m{n}": {"name": "mlp"} for n in range(65)}, "65 networks, and at most 64"),
    ],
)
def test_models_without_name_or_network_are_refused(models: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_models(models)


@pytest.mark.parametrize(
    ("assigned", "said"),
    [
        ("edge", r"is a list, .* write data\.models=\[big,edge\]"),
        ([], "is a list"),
        (3, "is a list"),
        (["edge", "bgi"], r"data\.models: 'bgi' is none .* \(nearest: 'big'\)"),
        ({"site-00": {"name": "mlp"}}, "is none of the models"),
    ],
)
def test_sites_are_given_offered_models_alone(assigned: object, said: str) -> None:
    check_models(TWO)
    check_assigned(TWO, ["big", "edge"])
    with pytest.raises(UserError, match=said):
        check_assigned(TWO, assigned)


def test_without_models_sites_are_given_none() -> None:
    check_assigned({}, None)
    with pytest.raises(UserError, match="the run offers none: add them"):
        check_assigned({}, ["edge"])
