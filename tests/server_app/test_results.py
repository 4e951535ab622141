"""What results.json says of the sites and of how layers travel."""

from __future__ import annotations

from models.networks import build
from server_app.results import coding, sites
from server_app.rounds.state import ServerState
from strategies.methods import make_method
from tests.helpers.members import member
from tests.helpers.partitions import partition_of


def test_a_site_is_described_without_its_layers() -> None:
    (entry,) = sites({"north": member()}).values()
    assert set(entry) == {
        "task",
        "model",
        "kind",
        "classes",
        "input_shape",
        "examples",
        "device",
        "versions",
        "majority_accuracy",
        "data",
    }
    assert entry["data"] is None  # this site says nothing of its data
    assert entry["model"] is None  # the run has one network
    (other,) = sites({"north": member(model="edge")}).values()
    assert other["model"] == "edge"


def test_each_group_says_how_it_travels_both_ways() -> None:
    state = ServerState(make_method({"name": "layers"}), {"common": {"name": "fedavg"}})
    network = build("mlp", input_shape=(6,), classes=2, head=[], hidden=[5])
    state.add_task("grade", partition_of(network, {"common": ["..."]}), network.state_dict())
    assert coding(state) == {"common": {"up": {"name": "exact"}, "down": {"name": "exact"}}}
