"""FedProx uses the configured groups, and accepts partial work."""

import pytest

from fedstrata.support.errors import UserError
from strategies.methods import make_method
from tests.helpers.methods import groups_of

METHOD = make_method({"name": "fedprox", "mu": 0.1})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2"},
        "task": {"head"},
    }


def test_one_step_is_enough_and_none_is_not() -> None:
    assert METHOD.reject_reason(1, 10) is None
    assert METHOD.reject_reason(0, 10)


def test_the_weight_of_the_term_is_not_negative() -> None:
    with pytest.raises(UserError, match=r"method\.mu must be 0 or greater"):
        make_method({"name": "fedprox", "mu": -1.0})
