"""What decodes a file follows from its suffix or its content."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_app.data.pixels import Preparation
from client_app.data.readers import decode_all, decode_one
from fedstrata.support.errors import UserError
from tests.helpers.data_files import encoded, picture
from tests.helpers.medical import dicom, nifti

PREPARATION = Preparation(6)
FRAMES = np.random.default_rng(0).integers(0, 4096, (6, 6, 6)).astype(np.uint16)


def test_a_picture_is_one(tmp_path: Path) -> None:
    ((frame, frames, _),) = decode_all(Path("a"), encoded(picture(0)), PREPARATION)
    assert (frame, frames) == (0, 1)


@pytest.mark.parametrize("name", ["a.dcm", "a.IMA", "a.png", "a"])
def test_dicom_is_known_by_its_content(name: str) -> None:
    found = list(decode_all(Path(name), dicom(FRAMES), PREPARATION))
    assert [(frame, frames) for frame, frames, _ in found] == [(n, 6) for n in range(6)]
    for frame, _, decoded in found:
        again = decode_one(Path(name), dicom(FRAMES), PREPARATION, frame)
        assert (again.square == decoded.square).all()


def test_nifti_is_known_by_its_suffix() -> None:
    found = list(decode_all(Path("a.nii.gz"), nifti(FRAMES), PREPARATION))
    assert len(found) == 6
    assert (
        decode_one(Path("a.nii"), nifti(FRAMES), PREPARATION, 4).square == found[4][2].square
    ).all()
    with pytest.raises(UserError, match="not a readable picture"):
        list(decode_all(Path("a.png"), nifti(FRAMES), PREPARATION))


def test_frames_that_are_not_used_are_counted_once() -> None:
    middle = Preparation(6, slices="middle")
    ((frame, frames, decoded),) = decode_all(Path("a.dcm"), dicom(FRAMES), middle)
    assert (frame, frames, decoded.facts.unused_pages) == (3, 1, 5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 a ZIP archive", "its bytes are none of JPEG, PNG, BMP"),
        (encoded(Image.new("1", (30_000, 30_000))), "its pixels are more than 64,000,000"),
    ],
)
def test_what_is_no_picture_is_said_in_our_own_words(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        list(decode_all(Path("a.png"), content, PREPARATION))
    assert "0x" not in str(raised.value)
    assert "DOS attack" not in str(raised.value)


def test_a_dicom_file_without_pixels_is_said() -> None:
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.dcmread(io.BytesIO(dicom(FRAMES)))
    del header.PixelData
    memory = io.BytesIO()
    header.save_as(memory)
    with pytest.raises(UserError, match="it has no pixels, or lacks what describes them"):
        list(decode_all(Path("a.dcm"), memory.getvalue(), PREPARATION))
