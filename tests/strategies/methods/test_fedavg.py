"""FedAvg averages all layers that are not frozen."""

from strategies.methods import make_method
from tests.helpers.methods import groups_of

METHOD = make_method({"name": "fedavg"})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {"pretrained": {"fc1", "bn1"}, "common": {"fc2", "bn2", "head"}}


def test_partial_work_is_rejected() -> None:
    assert METHOD.reject_reason(3, 3) is None
    assert "did 2 of 3 steps" in str(METHOD.reject_reason(2, 3))
