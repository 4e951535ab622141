"""NIfTI volumes: slices across an axis, as viewers show them, within bounds."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data import nifti
from client_app.data.decoding import TooManyPixelsError
from client_app.data.nifti import NiftiError, decode_frames, frames_of
from client_app.data.pixels import Preparation
from client_app.data.readers import decode_all
from client_app.data.registry import load
from fedstrata.support.errors import UserError
from tests.helpers.medical import nifti as written
from tests.helpers.medical import nifti_header

pytest.importorskip("nibabel")

SIDE = 6
VOLUME = np.random.default_rng(0).integers(-1000, 3000, (SIDE, SIDE, 4)).astype(np.int16)
CUBE = np.random.default_rng(1).integers(0, 3000, (SIDE, SIDE, SIDE)).astype(np.int16)


def slices(content: bytes, **how: object) -> list[np.ndarray]:
    preparation = Preparation(SIDE, **how)  # type: ignore[arg-type]
    frames, _ = frames_of(content, preparation)
    return [each.square[..., 0] for each in decode_frames(content, preparation, frames)]


@pytest.mark.parametrize("packed", [True, False])
def test_every_slice_is_a_picture_with_its_front_up(packed: bool) -> None:
    found = slices(written(VOLUME, packed=packed))
    assert len(found) == 4
    for number, square in enumerate(found):
        assert (square == np.rot90(VOLUME[:, :, number])).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_is_configured(axis: int) -> None:
    found = slices(written(CUBE), nifti_axis=axis)
    assert (found[1] == np.rot90(CUBE.take(1, axis))).all()


def test_the_stride_and_the_middle_are_configured() -> None:
    assert frames_of(written(VOLUME), Preparation(SIDE, nifti_stride=3)) == ([0, 3], 2)
    assert frames_of(written(VOLUME), Preparation(SIDE, slices="middle")) == ([2], 1)


def test_an_axis_is_that_of_the_body_however_it_is_stored() -> None:
    turned = np.array([[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    stored = written(CUBE, turned)
    body = CUBE[:, :, ::-1].transpose(2, 1, 0)
    for axis in (0, 1, 2):
        found = slices(stored, nifti_axis=axis)
        assert (found[2] == np.rot90(body.take(2, axis))).all()


def test_values_are_scaled_as_the_header_says() -> None:
    content = bytearray(written(VOLUME, packed=False))
    content[112:120] = np.array([2.0, -5.0], "<f4").tobytes()
    assert (slices(bytes(content))[0] == np.rot90(VOLUME[:, :, 0]) * 2.0 - 5).all()


def test_later_volumes_are_counted_and_left_out() -> None:
    content = written(np.stack([VOLUME, VOLUME], axis=-1))
    assert frames_of(content, Preparation(SIDE)) == ([0, 1, 2, 3], 8)
    found = list(decode_all(Path("a.nii.gz"), content, Preparation(SIDE)))
    assert [decoded.facts.unused_pages for _, _, decoded in found] == [4, 0, 0, 0]


def test_one_plane_is_a_picture() -> None:
    assert (slices(written(VOLUME[:, :, 0]))[0] == np.rot90(VOLUME[:, :, 0])).all()


def test_a_claim_of_too_much_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(NiftiError, match="claims more than 1024 MiB"):
        frames_of(nifti_header((2000, 2000, 2000)), Preparation(SIDE))
    with pytest.raises(TooManyPixelsError):
        frames_of(nifti_header((30000, 3000, 1), kind=2, bits=8), Preparation(SIDE))


@pytest.mark.parametrize("offset", [2.0**31, 1e30])
def test_values_that_begin_too_far_away_are_refused_before_anything_is_unpacked(
    offset: float, monkeypatch
) -> None:
    asked = []
    unpacked = nifti._unpacked
    monkeypatch.setattr(
        nifti, "_unpacked", lambda content, most: asked.append(most) or unpacked(content, most)
    )
    content = bytearray(written(VOLUME, packed=False))
    content[108:112] = np.array([offset], "<f4").tobytes()
    with pytest.raises(NiftiError, match="do not begin where its header says"):
        slices(bytes(content))
    assert max(asked) < 1000


def test_a_file_is_unpacked_no_further_than_its_header_says(monkeypatch) -> None:
    asked = []
    unpacked = nifti._unpacked
    monkeypatch.setattr(
        nifti, "_unpacked", lambda content, most: asked.append(most) or unpacked(content, most)
    )
    bomb = gzip.compress(nifti_header((SIDE, SIDE, 1)) + bytes(10 << 20))
    assert len(slices(bomb)) == 1
    assert max(asked) < 1000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"no volume" * 99, "not a readable NIfTI file"),
        (gzip.compress(b"x" * 999, mtime=0)[:20], "not a readable NIfTI file"),
        (b"\x1f\x8b" + b"x" * 99, "its compression is damaged"),
        (nifti_header((6, 6, 2)), "it ends before its last value"),
        (nifti_header((6, 6, 2), kind=32, bits=64), "no plain numbers"),
        (nifti_header((6, 6, 2), kind=77), "its shape or type"),
        (nifti_header((6, -6, 2)), "it has no volume"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        list(decode_all(Path("a.nii"), content, Preparation(SIDE)))


def test_without_nibabel_it_says_what_to_install(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(nifti, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'fedstrata\[medical\]'"):
        frames_of(b"", Preparation(SIDE))


def test_the_slices_of_a_volume_stay_in_one_split(tmp_path, options, info) -> None:
    for kind in ("sick", "well"):
        (tmp_path / kind).mkdir()
        for number in range(10):
            volume = VOLUME + number + 100 * (kind == "sick")
            (tmp_path / kind / f"{number}.nii.gz").write_bytes(written(volume.astype(np.int16)))
    data = load("images", options("images", size=8, channels=1), info(root=tmp_path), seed=1)
    splits = (data.train, data.validation, data.test)
    assert sum(map(len, splits)) == 80
    files = [set(split.inputs.paths) for split in splits]  # type: ignore[attr-defined]
    assert sum(map(len, files)) == len(set().union(*files)) == 20
    assert data.value_range is not None
    assert data.value_range[0] < -900


@given(
    st.booleans(),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_damaged_files_give_a_square_or_a_user_error(packed, cut, changes) -> None:
    content = bytearray(written(VOLUME, packed=False))
    for where, value in changes:
        content[where] = value
    damaged = bytes(content[: int((0.5 + cut) * len(content))])
    with contextlib.suppress(UserError):
        for _, _, decoded in decode_all(
            Path("a.nii"), gzip.compress(damaged, mtime=0) if packed else damaged, Preparation(SIDE)
        ):
            assert decoded.square.shape[:2] == (SIDE, SIDE)
            assert np.isfinite(decoded.square).all()
