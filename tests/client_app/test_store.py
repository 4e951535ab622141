"""Personal layers on the site's disk: whole or not there, and the same again for a re-sent round."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client_app.set_aside import MOST_SET_ASIDE
from client_app.store import DiskStore, LocalState
from fedstrata.protocol.limits import KNOWN_ROUNDS
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


def test_what_the_best_state_was_measured_with_stays(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run", "north")
    for number in range(1, 9):
        store.save(number, local_state(number), best=min(number - 1, 3) if number != 7 else 0)
        store.require(number + 1)
    assert store.rounds() == [5, 6, 7, 8]  # the order of round 7 named no best one
    for number in (1, 4, 5):
        with pytest.raises(UserError, match=f"after round {number - 1} are no longer"):
            store.require(number)
    store.require(7)
    assert values(store, 7) == 6


def test_a_best_state_long_ago_has_the_layers_that_it_was_measured_with(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run", "north")
    for number in range(1, 12):
        store.save(number, local_state(number), best=3 if number >= 5 else 0)
    store.require(4)
    assert values(store, 4) == 3
    assert store.rounds() == [3, 4, 9, 10, 11]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=9))
def test_layers_are_those_of_the_best_state_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[bool, int]]
) -> None:
    store = DiskStore(tmp_path_factory.mktemp("s"), "run", "north")
    began: dict[int, float] = {}
    for number, (asked, best) in enumerate(rounds, start=1):
        began[number] = values(store, number) if store.before(number) else 0.0
        if asked:
            store.save(number, local_state(number), best=min(best, number - 1))
    for number, value in began.items():
        try:
            store.require(number)
        except UserError:
            continue
        assert (values(store, number) if store.before(number) else 0.0) == value


def flipped(path: Path, at: int = -2) -> None:
    """Change one bit of a file, as a disk may."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def values(store: DiskStore, round_number: int) -> float:
    state = store.before(round_number)
    assert state is not None
    return float(state.tensors["head.out.weight"][0, 0])


def test_a_flipped_bit_gives_way_to_the_round_before_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in (1, 2, 3):
        store.save(number, local_state(number))
    flipped(store.path(3))
    assert values(store, 4) == 2
    assert "round 4 begins with the personal layers of round 2" in caplog.text
    assert str(store.path(3)) in caplog.text
    for number in (1, 2):
        flipped(store.path(number), at=200)
    with pytest.raises(UserError, match=r"round-000003\.safetensors is damaged") as raised:
        store.before(4)
    assert raised.value.public == "the personal layers on the site's disk cannot be read"


def test_what_else_a_damaged_file_had_is_done_without(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    layers, hashes = {"conv1.weight": torch.ones(3)}, {"common": "a" * 64}
    for number in (1, 2):
        state = replace(local_state(1.0), received=layers, hashes=hashes, error_feedback=layers)
        store.save(number, state)
    flipped(store.path(2))
    assert store.error_feedback(2, ["conv1.weight"]) == {}
    assert store.error_feedback(1, ["conv1.weight"]).keys() == {"conv1.weight"}
    assert store.received("common", "a" * 64, ["conv1.weight"]) is not None  # of round 1
    flipped(store.path(1))
    assert store.received("common", "a" * 64, ["conv1.weight"]) is None


def test_an_order_of_an_earlier_round_deletes_no_personal_layers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in range(1, 9):
        store.save(number, local_state(number))
    store.save(1, local_state(0.0))
    assert store.rounds() == [1]
    aside = store.folder / "set-aside" / "001"
    assert sorted(path.name for path in aside.iterdir()) == [
        f"round-{number:06d}.safetensors" for number in (6, 7, 8)
    ]
    assert "personal layers of rounds 6, 7, 8 are now in" in caplog.text
    for path in aside.iterdir():  # a person puts them back
        path.rename(store.folder / path.name)
    assert values(store, 9) == 8


def test_the_last_round_may_be_ordered_again_and_the_one_before_it_stays(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in (1, 2, 3, 3, 3):
        store.save(number, local_state(number))
    assert store.rounds() == [1, 2, 3]
    assert not (store.folder / "set-aside").exists()
    store.save(2, local_state(-1.0))
    assert values(DiskStore(tmp_path, "run-1", "clinic"), 2) == 1
    aside = store.folder / "set-aside" / "001"
    assert {path.name[-13] for path in aside.iterdir()} == {"2", "3"}


def test_what_is_set_aside_is_bounded_and_then_the_order_is_refused(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for _ in range(MOST_SET_ASIDE):
        store.save(2, local_state(2.0))
        store.save(1, local_state(1.0))
    store.save(2, local_state(7.0))
    with pytest.raises(UserError, match=r"the personal layers of 12 histories are set aside") as no:
        store.save(1, local_state(1.0))
    assert str(tmp_path) not in no.value.public
    assert store.rounds() == [1, 2]
    assert values(store, 3) == 7
    (store.folder / "set-aside" / "005").rename(tmp_path / "elsewhere")
    store.save(1, local_state(1.0))
    assert store.rounds() == [1]


def test_layers_of_the_servers_checkpoints_stay_and_no_more(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in (1, 2, 4, 5, 7, 8, 9, 10, 11, 12):  # rounds 3 and 6 were without this site
        durable = [each for each in (0, 3, 6, 9) if each < number][-3:]
        store.save(number, local_state(number), durable=durable)
    assert store.rounds() == [2, 5, 9, 10, 11, 12]
    assert [values(store, number) for number in (4, 7, 10)] == [2, 5, 9]


def test_rounds_without_a_checkpoint_are_replaced_when_they_are_ordered_again(
    tmp_path: Path,
) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in range(1, 7):
        store.save(number, local_state(number), durable=[3] if number > 3 else [0])
    repeated = store.folder / "set-aside" / "repeated"
    for last in (4, 6):  # it is killed again before its next checkpoint
        for number in range(4, last + 1):
            store.save(number, local_state(number), durable=[3])
        assert store.rounds() == list(range(3, last + 1))
        left = {path.name[-13] for path in repeated.iterdir()} if repeated.exists() else set()
        assert left == ({"5", "6"} if last == 4 else set())
    assert not (store.folder / "set-aside").exists()
    store.save(3, local_state(3.5), durable=[0])  # the server lost the checkpoint, or lies
    aside = store.folder / "set-aside" / "001"
    assert {path.name[-13] for path in aside.iterdir()} == {"3", "4", "5", "6"}


def test_a_damaged_file_is_no_reason_to_remove_others(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    for number in range(1, 4):
        store.save(number, local_state(number), durable=[0])
    store.path(3).write_bytes(b"damaged")
    store.save(2, local_state(2.5), durable=[0])
    aside = store.folder / "set-aside" / "001"
    assert {path.name[-13] for path in aside.iterdir()} == {"2", "3"}


def test_only_the_sites_user_may_read_what_stays_whatever_the_umask(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "state", "run-1", "clinic")
    before = os.umask(0)
    try:
        for number in (1, 2, 1):
            store.save(number, local_state(1.0))
    finally:
        os.umask(before)
    found = list(tmp_path.rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_dir()} == {0o700}


@given(st.data())
def test_random_damage_is_noticed_and_the_round_before_is_used(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = DiskStore(tmp_path_factory.mktemp("s"), "run-1", "clinic")
    for number in (1, 2):
        store.save(number, local_state(number))
    written = store.path(2).read_bytes()
    if data.draw(st.booleans(), label="cut"):
        changed = written[: data.draw(st.integers(0, len(written) - 1))]
    else:
        bit = data.draw(st.integers(0, 8 * len(written) - 1))
        flipped_one = bytearray(written)
        flipped_one[bit // 8] ^= 1 << bit % 8
        changed = bytes(flipped_one)
    store.path(2).write_bytes(changed)
    assert values(store, 3) == 1


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
    with largest_file(100), pytest.raises(UserError, match="could not be written: the disk"):
        store.save(2, LocalState({"head.out.weight": torch.zeros(200)}))
    assert [path.name for path in store.folder.iterdir()] == ["round-000001.safetensors"]
    kept = store.before(3)
    assert kept is not None
    assert torch.equal(kept.tensors["head.out.weight"], torch.ones(200))


def test_a_run_goes_on_with_the_data_with_which_it_began(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "march-1", "north")
    store.check_data("a" * 64)
    assert not store.folder.exists()  # a run that never trains leaves nothing here
    store.note_data("a" * 64)
    store.note_data("b" * 64)
    store.check_data("a" * 64)
    with pytest.raises(UserError, match="not those with which this run began"):
        store.check_data("b" * 64)
    DiskStore(tmp_path, "april-1", "north").check_data("b" * 64)
    assert (store.folder / "data.sha256").stat().st_mode & 0o077 == 0


def test_a_note_that_a_crash_emptied_is_written_again(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "march-1", "north")
    store.note_data("a" * 64)
    (store.folder / "data.sha256").write_text("")
    store.note_data("b" * 64)
    store.check_data("b" * 64)
