"""FedPer keeps the configured layers at the site."""

from strategies.methods import make_method
from tests.helpers.methods import groups_of

METHOD = make_method({"name": "fedper", "personal": ["head"]})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2"},
        "personal": {"head"},
    }
