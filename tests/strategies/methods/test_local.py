"""Local training keeps all trained layers at the site."""

from strategies.methods import make_method
from tests.helpers.methods import groups_of

METHOD = make_method({"name": "local"})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {"pretrained": {"fc1", "bn1"}, "personal": {"fc2", "bn2", "head"}}


def test_any_number_of_steps_is_accepted() -> None:
    assert METHOD.reject_reason(0, 3) is None
