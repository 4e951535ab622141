"""What a node decides, and what its configuration gets wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.node_config import (
    checked_name,
    enter_simulation,
    in_simulation,
    is_simulated,
    read_node_settings,
)
from fedstrata.support.errors import UserError

IN_SIMULATION = in_simulation  # before tests/conftest.py takes its place


def test_a_simulated_site_takes_folders_from_the_run_config(own_home: Path) -> None:
    run = {"data-root": "/data/har", "output-dir": "/out"}
    node = read_node_settings({"partition-id": 3, "num-partitions": 10}, run)
    assert node.simulated
    assert (node.index, node.count, node.name) == (3, 10, None)
    assert node.data_root == Path("/data/har")
    assert node.state_dir == Path("/out")
    assert node.cache_dir == own_home / "cache"


def test_nothing_the_server_says_chooses_a_folder_at_a_deployed_site(own_home: Path) -> None:
    run = {"data-root": "/etc", "output-dir": "/etc"}
    node = read_node_settings({"site": "clinic", "task": "grade"}, run)
    assert not node.simulated
    assert node.data_root is None
    assert node.state_dir == own_home / "sites"


def test_a_node_without_settings_is_not_simulated() -> None:
    assert not is_simulated({})
    assert read_node_settings({}, {"data-root": "/etc"}).data_root is None


def test_a_deployed_node_with_a_partition_alone_is_not_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client_app.node_config.in_simulation", IN_SIMULATION)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    node = read_node_settings({"partition-id": 0, "num-partitions": 3}, {"data-root": "/etc"})
    assert not node.simulated
    assert node.data_root is None
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert read_node_settings({"partition-id": 0, "num-partitions": 3}, {}).simulated
    monkeypatch.delitem(sys.modules, "ray")
    monkeypatch.setattr("client_app.node_config._entered", False)
    enter_simulation()
    assert read_node_settings({"partition-id": 0, "num-partitions": 3}, {}).simulated


@pytest.mark.parametrize("more", [{"state-dir": "/srv"}, {"task": "grade"}, {"max-steps": 4}])
def test_a_node_with_settings_of_its_own_is_not_simulated(more: dict[str, Any]) -> None:
    partition = {"partition-id": 0, "num-partitions": 2}
    run = {"data-root": "/etc"}
    assert is_simulated(partition)
    assert read_node_settings(partition, run).data_root == Path("/etc")
    assert not is_simulated({**partition, **more})
    assert read_node_settings({**partition, **more}, run).data_root is None


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"data_root": "/x"}, "no key 'data_root'.*'data-root'"),
        ({"site": "a", "data-root": "x/y"}, "data-root must be an absolute path"),
        ({"site": "a", "data-root": "~nobody-here/x"}, "data-root must be an absolute path"),
        ({"site": "../../etc"}, "cannot be used"),
        ({"site": ""}, "cannot be used"),
        ({"site": "a", "max-steps": 0}, "max-steps must be a whole number"),
        ({"site": "a", "threads": "two"}, "threads must be a whole number"),
        ({"partition-id": -1}, "partition-id"),
    ],
)
def test_a_wrong_node_config_is_rejected(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_node_settings(node, {})


def test_a_wrong_name_is_quoted_at_the_site_only() -> None:
    with pytest.raises(UserError, match=r"^task 'Ann Lee 1961' cannot be used: letters") as raised:
        checked_name("Ann Lee 1961", "task")
    assert raised.value.public.startswith("task cannot be used: letters")


@given(st.text(max_size=80))
def test_a_name_can_never_leave_its_folder(name: str) -> None:
    try:
        checked = checked_name(name, "site")
    except UserError:
        return
    path = Path("/state") / checked
    assert path.parent == Path("/state")
    assert path.name == name
