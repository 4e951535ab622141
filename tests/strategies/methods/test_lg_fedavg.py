"""LG-FedAvg averages the configured layers and keeps the rest at the site."""

from strategies.methods import make_method
from tests.helpers.methods import groups_of

METHOD = make_method({"name": "lg_fedavg", "common": ["head"]})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"head"},
        "personal": {"fc2", "bn2"},
    }
