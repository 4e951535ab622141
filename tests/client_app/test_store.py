"""Personal layers on the site's disk: whole or not there, and the same again for a re-sent round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client_app.store import DiskStore, LocalState
from fedstrata.protocol.limits import KNOWN_ROUNDS
from fedstrata.support import tensor_files
from fedstrata.support.errors import UserError
from tests.helpers.file_limits import largest_file


def local_state(value: float) -> LocalState:
    return LocalState(
        {"head.out.weight": torch.full((2, 3), value), "bn1.num_batches_tracked": torch.tensor(7)},
        {"head.out.weight": {"exp_avg": torch.ones(2, 3), "step": torch.tensor(4.0)}},
        {"own.a/b": torch.zeros(1)},
    )


def test_a_saved_state_comes_back(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    assert store.before(1) is None
    store.save(1, local_state(0.5))
    back = store.before(2)
    assert back is not None
    assert back.flat().keys() == local_state(0.5).flat().keys()
    assert all(torch.equal(t, back.flat()[n]) for n, t in local_state(0.5).flat().items())
    assert back.optimizer["head.out.weight"]["step"].item() == 4


def test_a_resent_round_starts_from_the_same_state(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    store.save(1, local_state(1.0))
    store.save(2, local_state(2.0))
    again = store.before(2)
    assert again is not None
    assert again.tensors["head.out.weight"][0, 0] == 1.0
    store.save(2, local_state(2.5))
    latest = store.before(9)
    assert latest is not None
    assert latest.tensors["head.out.weight"][0, 0] == 2.5


def test_a_round_played_again_leaves_the_same_bytes(tmp_path: Path) -> None:
    files = set()
    for attempt in range(20):  # safetensors would write metadata of several entries in any order
        store = DiskStore(tmp_path / str(attempt), "run-1", "clinic")
        hashes = {"common": "a" * 64, "task": "b" * 64}
        received = {"conv1.weight": torch.ones(3)}
        store.save(1, replace(local_state(1.0), received=received, hashes=hashes))
        files.add(store.path(1).read_bytes())
    assert len(files) == 1


def test_error_feedback_and_received_layers_are_read_only_when_needed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    layers = {"conv1.weight": torch.ones(3), "head.0.weight": torch.zeros(2)}
    hashes = {"common": "a" * 64, "task": "b" * 64}
    error_feedback = {name: tensor + 0.5 for name, tensor in layers.items()}
    store.save(
        1, replace(local_state(1.0), received=layers, hashes=hashes, error_feedback=error_feedback)
    )
    before = store.before(2)
    assert before is not None
    assert (before.error_feedback, before.received) == ({}, {})
    assert store.error_feedback(1, ["conv1.weight", "other"]).keys() == {"conv1.weight"}
    assert torch.equal(
        store.error_feedback(1, ["conv1.weight"])["conv1.weight"], torch.ones(3) + 0.5
    )
    assert store.error_feedback(2, ["conv1.weight"]) == {}
    found = store.received("common", "a" * 64, ["conv1.weight"])
    assert found is not None
    assert found.keys() == {"conv1.weight"}
    assert store.received("common", "b" * 64, ["conv1.weight"]) is None
    assert store.received("common", "a" * 64, ["conv1.weight", "other"]) is None


def test_a_round_that_is_needed_stays_however_old(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in range(1, 8):
        hashes = {"common": f"{number:064}"}
        store.save(number, replace(local_state(number), hashes=hashes), needed=[2, 99])
    assert store.rounds() == [2, 5, 6, 7]
    assert store.known_states("common") == tuple(f"{number:064}" for number in (7, 6, 5))
    store.save(6, local_state(6.5), needed=[7])  # a history that was given up
    assert store.rounds() == [2, 5, 6]


def test_metadata_of_several_entries_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="several entries: a, b"):
        tensor_files.save(tmp_path / "x.safetensors", {}, {"b": "1", "a": "2"})
    assert list(tmp_path.iterdir()) == []


def test_a_few_rounds_stay_and_sites_and_federations_do_not_mix(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in range(1, 8):
        store.save(number, local_state(number))
    assert store.rounds() == [5, 6, 7]
    assert KNOWN_ROUNDS == 3
    assert DiskStore(tmp_path, "run-1", "other").before(9) is None
    assert DiskStore(tmp_path, "run-2", "clinic").before(9) is None
    assert store.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["..", "a/b", "", "x" * 65, ".hidden"])
def test_a_federation_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        DiskStore(tmp_path, name, "clinic")


@given(st.binary(max_size=200))
def test_a_damaged_file_is_rejected_and_never_runs(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    store = DiskStore(tmp_path_factory.mktemp("s"), "run-1", "clinic")
    store.save(1, local_state(1.0))
    store.path(1).write_bytes(data)
    with pytest.raises(UserError):
        store.before(2)


def test_a_full_disk_leaves_the_older_rounds_whole(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    store.save(1, LocalState({"head.out.weight": torch.ones(200)}))
    for write in (
        lambda: store.save(2, LocalState({"head.out.weight": torch.zeros(200)})),
        lambda: store.deploy({"head.out.weight": torch.zeros(200)}, {}),
    ):
        with largest_file(100), pytest.raises(UserError, match="could not be written: the disk"):
            write()
    assert [path.name for path in store.folder.iterdir()] == ["round-000001.safetensors"]
    kept = store.before(3)
    assert kept is not None
    assert torch.equal(kept.tensors["head.out.weight"], torch.ones(200))
