"""Decoded pictures on disk: the same bits, within bounds, and no damaged file does harm."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data import decoded_store
from client_app.data.decoded_store import DecodedStore
from client_app.data.pixels import Decoded, Facts, Preparation

SIZE = 4
PREPARATION = Preparation(SIZE)
NARROW = (
    np.arange(48, dtype=np.uint8).reshape(SIZE, SIZE, 3),
    Facts(0.0, 255.0, colored=True),
    (640, 480),
)
WIDE = (
    np.linspace(-5, 9000, 16, dtype=np.float32).reshape(SIZE, SIZE, 1),
    Facts(-5, 9000, wide=True, inverted=True, unused_pages=2, window_low=1, window_high=8),
    (3, 70_000),
)
FIRST, SECOND = "0a" * 32, "ff" * 32


def filled(folder: Path, most: int = 1 << 20, **files: list) -> DecodedStore:
    """Return a store in which each digest has these pictures."""
    store = DecodedStore(folder, PREPARATION, most)
    with store.writing() as writer:
        for digest, pictures in (files or {FIRST: [NARROW], SECOND: [WIDE, WIDE]}).items():
            for number, each in enumerate(pictures):
                writer.add(digest, number, len(pictures), Decoded(*each))
    return store


def again(folder: Path) -> DecodedStore:
    decoded_store._checked_pack.cache_clear()  # as in another process
    return DecodedStore(folder, PREPARATION, 1 << 20)


def test_what_was_written_is_there_at_the_next_start(tmp_path: Path) -> None:
    for store in (filled(tmp_path), again(tmp_path)):
        assert str([each.facts for each in store.pictures(FIRST)]) == str([NARROW[1]])
        assert [each.frame for each in store.pictures(SECOND)] == [0, 1]
        assert store.pictures(SECOND)[1].facts == WIDE[1]
        assert [store.pictures(each)[0].size for each in (FIRST, SECOND)] == [NARROW[2], WIDE[2]]
        found = store.squares([(FIRST, 0), (SECOND, 1), (SECOND, 7), ("ab" * 32, 0)])
        assert found.keys() == {(FIRST, 0), (SECOND, 1)}
        for key, (square, *_) in (((FIRST, 0), NARROW), ((SECOND, 1), WIDE)):
            assert found[key].dtype == square.dtype
            assert (found[key] == square).all()


def test_another_preparation_has_its_own(tmp_path: Path) -> None:
    filled(tmp_path)
    assert not DecodedStore(tmp_path, Preparation(SIZE + 1), 1 << 20).by_digest
    assert not DecodedStore(tmp_path, Preparation(SIZE, channels=1), 1 << 20).by_digest


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "pictures")
    assert stat.S_IMODE((tmp_path / "a" / "pictures").stat().st_mode) == 0o700
    for path in (tmp_path / "a" / "pictures").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = DecodedStore(tmp_path, PREPARATION, 1 << 20)

    def fails() -> None:
        with store.writing() as writer:
            writer.add(FIRST, 0, 1, Decoded(*NARROW))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["replacing_private", "np.array"])  # at the first picture, the end
def test_a_disk_that_is_full_means_no_store_and_a_warning(
    tmp_path: Path, monkeypatch, caplog, at: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"client_app.data.decoded_store.{at}", full)
    assert not filled(tmp_path).by_digest
    assert list(tmp_path.iterdir()) == []
    (record,) = caplog.records
    assert record.getMessage().startswith(f"3 decoded pictures are not kept in {tmp_path}")
    assert ": No space left on device;" in record.getMessage()


def test_pictures_without_room_are_warned_of(tmp_path: Path, caplog) -> None:
    filled(tmp_path)
    assert not caplog.records
    row = NARROW[0].nbytes + decoded_store._ROW.itemsize
    filled(tmp_path / "b", row, **{f"{each}a" * 32: [NARROW] for each in range(3)})
    (record,) = caplog.records
    assert record.getMessage().startswith("2 decoded pictures are not kept")
    assert "data.cache_mb" in record.getMessage()


def test_the_folder_has_no_more_bytes_than_allowed(tmp_path: Path) -> None:
    row = NARROW[0].nbytes + decoded_store._ROW.itemsize
    limit = 3 * row + decoded_store._END.size
    for number in range(4):
        path_count = len(list(tmp_path.iterdir()))
        assert path_count <= 3
        many = {f"{number}{each}" * 32: [NARROW] for each in range(2)}
        store = filled(tmp_path, limit, **many)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
        assert len(store.squares((digest, 0) for digest in many)) == 2
    huge = {f"a{each}" * 32: [NARROW] for each in range(9)}
    assert len(filled(tmp_path, limit, **huge).squares((digest, 0) for digest in huge)) == 3


def test_a_file_of_which_a_part_is_stored_is_decoded_again(tmp_path: Path) -> None:
    row = WIDE[0].nbytes + decoded_store._ROW.itemsize
    assert not filled(tmp_path, 2 * row - 1).pictures(SECOND)


def test_a_pack_that_is_gone_is_decoded_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    assert store.squares([(FIRST, 0)]) == {}


def test_pixels_that_changed_on_disk_are_not_used(tmp_path: Path) -> None:
    filled(tmp_path)
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        content[5] ^= 1
        path.write_bytes(content)
    assert again(tmp_path).squares([(FIRST, 0), (SECOND, 0)]).keys() == set()


def test_a_link_or_a_pipe_is_no_pack(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        (tmp_path / "b" / path.name).symlink_to(path)
        os.mkfifo(tmp_path / "b" / path.name.replace("-", "-0"))
    assert not again(tmp_path / "b").by_digest


@pytest.mark.parametrize("count", [0, 2, 2**40, 2**63])
def test_a_claim_of_other_sizes_is_no_pack(tmp_path: Path, count: int) -> None:
    filled(tmp_path, **{FIRST: [NARROW]})
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, len(content) - decoded_store._END.size + 40, count)
    path.write_bytes(content)
    assert not again(tmp_path).by_digest


@given(st.data())
def test_a_damaged_pack_gives_the_right_pixels_or_none(
    tmp_path_factory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("packs")
    filled(folder, **{FIRST: [NARROW]})
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for square in again(folder).squares([(FIRST, 0)]).values():
        assert (square == NARROW[0]).all()


def test_a_pack_of_another_user_is_none(tmp_path: Path, monkeypatch) -> None:
    filled(tmp_path)
    assert again(tmp_path).by_digest
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not again(tmp_path).by_digest


def test_packs_in_use_are_not_removed_for_new_ones(tmp_path: Path) -> None:
    size = NARROW[0].nbytes + decoded_store._ROW.itemsize + decoded_store._END.size
    filled(tmp_path, **{FIRST: [NARROW]})
    store = DecodedStore(tmp_path, PREPARATION, size + 1)
    assert store.pictures(FIRST)
    store.most = 2 * size - 1  # room for the picture, but not for the end of its pack
    with store.writing() as writer:
        writer.add(SECOND, 0, 1, Decoded(*NARROW))
    assert again(tmp_path).by_digest.keys() == {FIRST, SECOND}


def test_what_a_killed_process_was_writing_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, young = (tmp_path / f".{name}.pack.{name}.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    filled(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)


def test_some_of_the_disk_is_left_free(tmp_path: Path, monkeypatch) -> None:
    usage = SimpleNamespace(total=1000, free=49)
    monkeypatch.setattr(decoded_store.shutil, "disk_usage", lambda _: usage)
    assert not filled(tmp_path).by_digest


@pytest.mark.parametrize(("low", "high"), [(float("nan"), 1.0), (0.0, float("inf")), (2.0, 1.0)])
def test_extremes_that_make_no_sense_are_no_pack(tmp_path: Path, low: float, high: float) -> None:
    filled(tmp_path, **{FIRST: [(NARROW[0], Facts(low, high), NARROW[2])]})
    assert not again(tmp_path).by_digest
