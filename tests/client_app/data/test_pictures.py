"""Pictures become equal squares within a fixed memory; a damaged file is a UserError."""

from __future__ import annotations

import contextlib
import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client_app.data import file_digests, pictures, readers
from client_app.data.decoded_store import DecodedStore
from client_app.data.file_digests import KeptDigests
from client_app.data.pictures import Picture, PictureCache, PictureInputs
from client_app.data.pixels import Preparation
from fedstrata.support.errors import UserError
from tests.helpers.data_files import encoded, picture


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims this size; its data are those of one pixel."""
    memory = io.BytesIO()
    Image.new("RGB", (1, 1)).save(memory, "PNG")
    content = bytearray(memory.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def decode_square(path: Path, content: bytes, size: int) -> np.ndarray:
    return readers.decode_one(path, content, Preparation(size)).square


PCX = encoded(picture(0), "PCX")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable picture"),
        (b"no picture at all", "not a readable picture"),
        (png(60_000, 60_000), "its pixels are more than"),  # Pillow's own limit
        (png(9_000, 9_000), "9000 x 9000 pixels are more than"),
        (png(100, 100), "not a readable picture"),
        (EPS, "not a readable picture"),
        (PCX, "not a readable picture"),  # Pillow could read it; it is not among our formats
    ],
)
def test_a_bad_picture_is_reported_with_its_file(content, message) -> None:
    with pytest.raises(UserError, match=rf"bad\.png: {message}"):
        decode_square(Path("bad.png"), content, 8)


def test_a_truncated_picture_is_reported() -> None:
    content = encoded(picture(0, 64, 64), "JPEG")
    assert decode_square(Path("a.jpg"), content, 8).shape == (8, 8, 3)
    with pytest.raises(UserError, match=r"a\.jpg: not a readable picture"):
        decode_square(Path("a.jpg"), content[:-200], 8)


def test_the_central_square_is_cut_and_scaled() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = (255, 128, 0)
    square = decode_square(Path("a.png"), encoded(Image.fromarray(pixels)), 16)
    assert square.shape == (16, 16, 3)
    assert (square == (255, 128, 0)).all()


def cached_inputs(
    folder: Path, memory: int, size: int = 8, store: DecodedStore | None = None
) -> PictureInputs:
    paths = sorted(folder.iterdir())
    cache = PictureCache(Preparation(size), memory, store)
    found = [picture for pictures in cache.examine(paths) for picture in pictures]
    return PictureInputs(tuple(found), cache, (0.5,) * 3, (0.25,) * 3)


def test_memory_is_bounded_and_changes_nothing(folders) -> None:
    square = 8 * 8 * 3
    whole, some, none = (
        cached_inputs(folders / "cat", memory) for memory in (1 << 20, 5 * square, 0)
    )
    assert [len(inputs.cache.kept) for inputs in (whole, some, none)] == [20, 5, 0]
    order = np.array([19, 0, 7, 7])
    batch = whole.batch(order)
    assert batch.equal(some.batch(order))
    assert batch.equal(none.batch(order))
    first = decode_square(whole.paths[19], whole.paths[19].read_bytes(), 8)
    assert np.allclose(batch[0].numpy(), (first.transpose(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-6)


def stored(folder: Path, cache: Path, memory: int = 0) -> PictureInputs:
    """Return the pictures of a folder as a site with a cache folder has them."""
    store = DecodedStore(cache, Preparation(8), 1 << 20)
    return cached_inputs(folder, memory, store=store)


def test_a_second_start_decodes_nothing_and_gives_the_same(folders, tmp_path, monkeypatch) -> None:
    first = stored(folders / "cat", tmp_path / "cache")
    order = np.array([19, 0, 7, 7])
    expected = cached_inputs(folders / "cat", 0).batch(order)
    monkeypatch.setattr(readers, "decode_picture", None)
    assert first.batch(order).equal(expected)
    for memory in (0, 1 << 20):
        second = stored(folders / "cat", tmp_path / "cache", memory)
        assert second.batch(order).equal(expected)
        assert second.digest() == first.digest()
        assert len(second.cache.kept) == (3 if memory else 0)  # those that a batch needed


def test_a_file_that_is_known_is_not_even_read(folders, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(file_digests, "_RACY", -(10**12))  # the files were made just now
    paths = sorted((folders / "cat").iterdir())

    def examined() -> list[list[Picture] | UserError]:
        store = DecodedStore(tmp_path / "cache", Preparation(8), 1 << 20)
        digests = KeptDigests(tmp_path / "cache", str(folders))
        return PictureCache(Preparation(8), 0, store, digests).examine(paths)

    first, read = examined(), []
    read_file = pictures.read_file
    monkeypatch.setattr(pictures, "read_file", lambda path: read.append(path) or read_file(path))
    assert str(examined()) == str(first)
    assert read == []
    picture(77).save(paths[0])
    assert str(examined()) != str(first)
    assert read == paths[:1]


def test_only_new_pictures_are_decoded(folders, tmp_path, monkeypatch) -> None:
    stored(folders / "cat", tmp_path / "cache")
    picture(77).save(folders / "cat" / "new.png")
    seen = []
    decode_picture = readers.decode_picture
    monkeypatch.setattr(
        readers, "decode_picture", lambda *given: seen.append(given) or decode_picture(*given)
    )
    inputs = stored(folders / "cat", tmp_path / "cache")
    inputs.batch(np.arange(21))
    assert len(seen) == 1


def test_a_damaged_store_changes_nothing(folders, tmp_path) -> None:
    expected = stored(folders / "cat", tmp_path / "cache").batch(np.arange(20))
    for path in (tmp_path / "cache").iterdir():
        content = bytearray(path.read_bytes())
        content[100:900] = bytes(800)
        path.write_bytes(content)
    assert stored(folders / "cat", tmp_path / "cache").batch(np.arange(20)).equal(expected)


def test_the_digest_depends_on_content_order_and_preparation(folders) -> None:
    inputs = cached_inputs(folders / "cat", 0)
    same = cached_inputs(folders / "cat", 1 << 20)
    turned = replace(inputs, pictures=inputs.pictures[::-1])
    larger = cached_inputs(folders / "cat", 0, size=9)
    brighter = replace(inputs, mean=(0.4,) * 3)
    wider = replace(inputs, span=(0.0, 512.0))
    assert inputs.digest() == same.digest()
    digests = {one.digest() for one in (inputs, turned, larger, brighter, wider)}
    assert len(digests) == 5
    picture(77).save(folders / "cat" / "000.png")
    assert cached_inputs(folders / "cat", 0).digest() not in digests


def test_a_file_that_changes_during_the_run_is_reported(folders) -> None:
    inputs = cached_inputs(folders / "cat", 0)
    picture(77).save(folders / "cat" / "000.png")
    with pytest.raises(UserError, match=r"000\.png: has changed"):
        inputs.batch(np.array([0]))
    (folders / "cat" / "000.png").unlink()
    with pytest.raises(UserError, match=r"000\.png: cannot be read"):
        inputs.batch(np.array([0]))


@pytest.mark.parametrize(("of_torch", "decode"), [(1, 1), (3, 3), (9, 4)])
def test_no_more_threads_decode_than_torch_may_use(folders, monkeypatch, of_torch, decode) -> None:
    pool, seen = pictures.ThreadPoolExecutor, []

    def watched(workers: int) -> ThreadPoolExecutor:
        seen.append(workers)
        return pool(workers)

    monkeypatch.setattr(pictures, "ThreadPoolExecutor", watched)
    torch.set_num_threads(of_torch)  # as the site's `threads` does; tests/conftest.py puts it back
    cache, paths = PictureCache(Preparation(8), memory=0), sorted(folders.rglob("*.png"))
    cache.squares([picture for pictures in cache.examine(paths) for picture in pictures])
    assert seen == [decode, decode]


FORMS = [encoded(picture(0), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]


@given(
    st.sampled_from(FORMS),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_damaged_pictures_give_a_square_or_a_user_error(content, cut, changes) -> None:
    damaged = bytearray(content[: int(cut * len(content))])
    for where, value in changes:
        if damaged:
            damaged[int(where * (len(damaged) - 1))] = value
    with contextlib.suppress(UserError):
        assert decode_square(Path("a.png"), bytes(damaged), 8).shape == (8, 8, 3)


def test_a_file_that_is_too_large_is_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST_FILE", 1 << 20)
    path = tmp_path / "a.png"
    for size in (1 << 20, (1 << 20) + 1):
        path.write_bytes(bytes(size))
        if size == 1 << 20:
            assert len(pictures.read_file(path)) == size
            continue
        with pytest.raises(UserError, match=r"a\.png: larger than 1 MiB"):
            pictures.read_file(path)
