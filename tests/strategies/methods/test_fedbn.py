"""FedBN keeps normalization layers at the site."""

import pytest

from fedstrata.support.errors import UserError
from models.networks import build
from strategies.methods import make_method
from tests.helpers.methods import groups_of

METHOD = make_method({"name": "fedbn", "types": ["BatchNorm1d"]})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "head"},
        "personal": {"bn2"},
    }


def test_a_model_without_normalization_is_refused() -> None:
    network = build("mlp", input_shape=(6,), classes=2, head=[], hidden=[5])
    with pytest.raises(UserError, match="has no layer of type BatchNorm1d"):
        METHOD.groups({"common": ["..."]}, network)
