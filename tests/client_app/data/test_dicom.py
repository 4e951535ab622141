"""DICOM files: values in the modality's unit, frames as pictures, nothing of the header."""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client_app.data import dicom as product
from client_app.data.decoding import TooManyPixelsError
from client_app.data.dicom import DicomError, decode_frames, dicom_patient, frames_of, patient_key
from client_app.data.findings import Findings
from client_app.data.picture_reading import read_pictures
from client_app.data.pixels import Decoded, Preparation
from client_app.data.readers import decode_all
from client_app.data.registry import load
from fedstrata.support.errors import UserError
from tests.helpers.medical import PATIENT_ID, dicom
from tests.helpers.picture_options import picture_options

pydicom = pytest.importorskip("pydicom")

SIDE = 8
PREPARATION = Preparation(SIDE)
TWELVE = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
EIGHT = (TWELVE >> 4).astype(np.uint8)
FRAMES = np.stack([TWELVE, TWELVE + 1, TWELVE + 2])


def one(content: bytes) -> Decoded:
    frames, count = frames_of(content, PREPARATION)
    assert (frames, count) == ([0], 1)
    return next(decode_frames(content, PREPARATION, frames))


def test_sixteen_bits_are_kept_and_rescaled() -> None:
    square, facts, _ = one(dicom(TWELVE, bits=12))
    assert (square[..., 0] == TWELVE).all()
    assert (facts.low, facts.high, facts.wide) == (TWELVE.min(), TWELVE.max(), True)
    square, facts, _ = one(dicom(TWELVE, bits=12, RescaleSlope=2, RescaleIntercept=-1024))
    assert (square[..., 0] == 2.0 * TWELVE - 1024).all()
    assert facts.low == 2.0 * TWELVE.min() - 1024
    signed = TWELVE.astype(np.int16) - 2000
    assert (one(dicom(signed)).square[..., 0] == signed).all()


def test_a_frame_of_which_white_is_low_is_inverted() -> None:
    assert one(dicom(TWELVE, "MONOCHROME1", bits=12)).facts.inverted
    assert not one(dicom(TWELVE, bits=12)).facts.inverted
    assert (one(dicom(EIGHT, "MONOCHROME1")).square == 255 - EIGHT[..., None]).all()


def test_eight_bits_are_those_of_any_picture() -> None:
    square, facts, _ = one(dicom(EIGHT))
    assert square.dtype == np.uint8
    assert (square == EIGHT[..., None]).all()
    assert (facts.low, facts.high, facts.wide) == (0, 255, False)


def test_fewer_bits_than_the_byte_has_are_scaled_by_what_is_used() -> None:
    six = EIGHT >> 2
    square, facts, _ = one(dicom(six, bits=6))
    assert facts.wide
    assert (facts.low, facts.high) == (six.min(), six.max())
    assert (square[..., 0] == six).all()


def test_colors_are_red_green_and_blue() -> None:
    colors = np.stack([EIGHT, EIGHT[::-1], EIGHT[:, ::-1]], axis=-1)
    square, facts, _ = one(dicom(colors, "RGB"))
    assert (square == colors).all()
    assert facts.colored
    converted = pydicom.pixels.convert_color_space(colors, "RGB", "YBR_FULL")
    assert (abs(one(dicom(converted, "YBR_FULL")).square.astype(int) - colors) <= 2).all()


def test_a_palette_gives_colors() -> None:
    indices = (EIGHT % 4).astype(np.uint8)
    tables = {
        f"{color}PaletteColorLookupTable{part}": value
        for number, color in enumerate(("Red", "Green", "Blue"))
        for part, value in (
            ("Descriptor", [4, 0, 16]),
            ("Data", (np.arange(4, dtype=np.uint16) * 64 + number << 8).tobytes()),
        )
    }
    square = one(dicom(indices, "PALETTE COLOR", **tables)).square
    assert (square == indices[..., None] * 64 + np.arange(3)).all()


def test_the_window_of_the_file_is_known() -> None:
    facts = one(dicom(TWELVE, bits=12, WindowCenter=40, WindowWidth=400)).facts
    assert (facts.window_low, facts.window_high) == (-160, 240)
    several = one(dicom(TWELVE, bits=12, WindowCenter=[40, 300], WindowWidth=[400, 2000])).facts
    assert (several.window_low, several.window_high) == (-160, 240)
    nonsense = dicom(TWELVE, WindowCenter=11111.25, WindowWidth=9).replace(b"11111.25", b"nonsense")
    for content in (dicom(TWELVE, bits=12), nonsense):
        assert np.isnan(one(content).facts.window_low)


def test_what_only_fills_the_rectangle_is_black() -> None:
    values = TWELVE.astype(np.int16)
    values[0] = -2000
    square, facts, _ = one(dicom(values, PixelPaddingValue=-2000))
    assert facts.low == values[1:].min()
    assert (square[0] == facts.low).all()
    facts = one(dicom(values, "MONOCHROME1", PixelPaddingValue=-2000)).facts
    assert (facts.low, facts.high) == (values[1:].min(), values.max())


def test_frames_are_pictures_or_the_middle_one_is() -> None:
    content = dicom(FRAMES, bits=12)
    assert frames_of(content, PREPARATION) == ([0, 1, 2], 3)
    squares = [each.square for each in decode_frames(content, PREPARATION, [0, 1, 2])]
    assert all((square[..., 0] == TWELVE + n).all() for n, square in enumerate(squares))
    assert frames_of(content, Preparation(SIDE, slices="middle")) == ([1], 3)


def test_frames_can_have_scales_and_windows_of_their_own() -> None:
    def item(**values: object) -> pydicom.Dataset:
        made = pydicom.Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    groups = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=number)],
            FrameVOILUTSequence=[item(WindowCenter=number, WindowWidth=2)],
        )
        for number in (0, 10, 20)
    ]
    content = dicom(FRAMES, bits=12, PerFrameFunctionalGroupsSequence=groups)
    last = list(decode_frames(content, PREPARATION, [0, 1, 2]))[2]
    assert (last.square[..., 0] == TWELVE + 22.0).all()
    assert (last.facts.window_low, last.facts.window_high) == (19, 21)


def test_run_lengths_are_decoded() -> None:
    made = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(TWELVE, bits=12)))
    made.compress(pydicom.uid.RLELossless)
    memory = pydicom.filebase.DicomBytesIO()
    made.save_as(memory)
    assert (one(memory.getvalue()).square[..., 0] == TWELVE).all()


def test_a_syntax_without_a_decoder_is_named() -> None:
    encoded = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    content = dicom(TWELVE, syntax=pydicom.uid.JPEGLSLossless, encoded=encoded)
    with pytest.raises(DicomError, match="JPEG-LS Lossless Image Compression"):
        frames_of(content, PREPARATION)
    content = dicom(TWELVE).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.10\0"[:20])
    with pytest.raises(DicomError):
        frames_of(content, PREPARATION)


def test_a_file_that_could_unpack_to_anything_is_not_read() -> None:
    content = dicom(TWELVE, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    with pytest.raises(DicomError, match="Deflated"):
        frames_of(content, PREPARATION)


def test_a_claim_of_too_many_pixels_or_frames_is_refused() -> None:
    with pytest.raises(TooManyPixelsError):
        frames_of(dicom(TWELVE, Rows=60000, Columns=60000), PREPARATION)
    with pytest.raises(DicomError, match="more than"):
        frames_of(dicom(TWELVE, NumberOfFrames=10**9), PREPARATION)
    with pytest.raises(DicomError, match="cannot be decoded"):
        list(decode_frames(dicom(TWELVE, Rows=4000), PREPARATION, [0]))


def test_without_pydicom_it_says_what_to_install(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(product, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'fedstrata\[medical\]'"):
        frames_of(b"", PREPARATION)


def test_a_patient_is_a_keyed_hash(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(TWELVE))
    (tmp_path / "b.dcm").write_bytes(dicom(EIGHT, PatientName="OTHER"))
    (tmp_path / "c.dcm").write_bytes(dicom(EIGHT, PatientID="MRN-1"))
    key = patient_key(tmp_path / "cache")
    first, same, other = (dicom_patient(tmp_path / f"{name}.dcm", key) for name in "abc")
    assert first == same != other
    assert PATIENT_ID not in first
    assert dicom_patient(tmp_path / "a.dcm", patient_key(tmp_path / "cache")) == first
    assert dicom_patient(tmp_path / "a.dcm", patient_key(None)) != first
    assert (tmp_path / "cache" / "patients.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "d.dcm").write_bytes(dicom(EIGHT, PatientID=""))
    Image.fromarray(EIGHT).save(tmp_path / "e.png")
    for name in ("d.dcm", "e.png"):
        with pytest.raises(UserError, match="has no PatientID"):
            dicom_patient(tmp_path / name, key)


@pytest.mark.parametrize("manifest", [False, True])
def test_a_patient_stays_on_one_side(tmp_path, options, info, manifest: bool) -> None:
    rows = ["path,label"]
    for kind in ("sick", "well"):
        (tmp_path / kind).mkdir()
        for number in range(30):
            content = dicom(TWELVE + number + 100 * (kind == "sick"), PatientID=f"P{number % 10}")
            (tmp_path / kind / f"{number}.dcm").write_bytes(content)
            rows.append(f"{kind}/{number}.dcm,{kind}")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    chosen = options(
        "images",
        size=8,
        group="patient",
        manifest="all.csv" if manifest else None,
        test_fraction=0.3,
    )
    data = load("images", chosen, info(root=tmp_path), seed=1)
    sides = [
        {int(path.stem) % 10 for path in split.inputs.paths}  # type: ignore[attr-defined]
        for split in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 10
    for number, damage in enumerate((b"", b"no DICOM file", dicom(TWELVE)[:300])):
        (tmp_path / "sick" / f"{number}.dcm").write_bytes(damage)
    with pytest.raises(UserError, match="3 of 60 pictures cannot be read"):
        load("images", chosen, info(root=tmp_path), seed=1)
    site = info(root=tmp_path)
    load("images", {**chosen, "unreadable": "skip"}, site, seed=1)
    assert site.findings.left_out["unreadable"] == 3
    (tmp_path / "sick" / "3.dcm").unlink()  # so that the folder changes, and is listed anew
    (tmp_path / "sick" / "3.dcm").write_bytes(dicom(TWELVE, PatientID=""))
    with pytest.raises(UserError, match="has no PatientID"):
        load("images", chosen, info(root=tmp_path), seed=1)


def test_patients_on_both_sides_are_a_warning_without_the_option(tmp_path, options, info) -> None:
    for kind in ("sick", "well"):
        (tmp_path / kind).mkdir()
        for number in range(15):
            content = dicom(TWELVE + number + 100 * (kind == "sick"), PatientID=f"P{number % 2}")
            (tmp_path / kind / f"{number}.dcm").write_bytes(content)
    (tmp_path / "well" / "0.dcm").write_bytes(dicom(TWELVE + 500, PatientID=""))
    site = info(root=tmp_path)
    load("images", options("images", size=8), site, seed=1)
    (warning,) = (w for w in site.findings.warnings if "PatientID" in w.whole)
    assert warning.whole.startswith("2 patients stand in two splits, by the PatientID of DICOM")
    assert warning.public.startswith("patients stand in two splits")
    assert "write data.group=patient" in warning.whole


def test_the_window_of_each_file_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(TWELVE, bits=12, WindowCenter=1000, WindowWidth=200))
    (tmp_path / "b.dcm").write_bytes(dicom(TWELVE, bits=12))
    findings, rows = Findings(), np.arange(2)
    chosen = picture_options(window="file", mean=[0.0] * 3, std=[1.0] * 3)
    pictures = read_pictures(chosen, sorted(tmp_path.iterdir()), findings)
    (inputs, *_), span = pictures.inputs([rows, rows[:0], rows[:0]])
    first, second = inputs.batch(rows).numpy()
    assert np.allclose(first[0], ((TWELVE - 900.0) / 200).clip(0, 1), atol=1e-6)
    extent = float(TWELVE.max() - TWELVE.min())
    assert np.allclose(second[0], (TWELVE - float(TWELVE.min())) / extent, atol=1e-6)
    assert span is None
    assert "its file's own window" in findings.notes[0].whole
    assert "pictures that name no window: 1" in findings.warnings[0].whole


def test_nothing_of_a_header_gets_anywhere(tmp_path, options, info, caplog, recwarn) -> None:
    warnings.simplefilter("always")
    caplog.set_level(logging.DEBUG)
    for kind in ("sick", "well"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(10):
            content = dicom(TWELVE + number + 100 * (kind == "sick"), bits=12, StudyDate="not one")
            (tmp_path / "data" / kind / f"{number}.dcm").write_bytes(content)
    findings = Findings()
    paths = sorted((tmp_path / "data").rglob("*.dcm"))
    read_pictures(picture_options(), paths, findings, tmp_path / "cache")
    data = load("images", options("images", size=8), info(root=tmp_path / "data"), seed=1)
    broken = tmp_path / "data" / "sick" / "0.dcm"
    content = dicom(TWELVE, Rows=4000, WindowCenter=11111.25, WindowWidth=9)
    broken.write_bytes(content.replace(b"11111.25", PATIENT_ID.encode()))
    with pytest.raises(UserError) as raised:
        load("images", options("images", size=8), info(root=tmp_path / "data"), seed=1)
    said = [repr(data), caplog.text, str(raised.value), *findings.lines()]
    said += [str(each.message) for each in recwarn]
    kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    for name in ("LEE", "ANN", "4711", "not one"):
        assert not any(name in text for text in said)
        assert not any(name.encode() in content for content in kept)


FORMS = [
    dicom(TWELVE, bits=12, RescaleSlope=2, WindowCenter=40, WindowWidth=400),
    dicom(FRAMES, bits=12, PixelPaddingValue=3),
    dicom(EIGHT, "MONOCHROME1"),
    dicom(np.stack([EIGHT] * 3, axis=-1), "RGB"),
]


@given(
    st.sampled_from(FORMS),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_damaged_files_give_a_square_or_a_user_error(content, cut, changes) -> None:
    damaged = bytearray(content[: int((0.5 + cut / 2) * len(content))])
    for where, value in changes:
        damaged[int(where * (len(damaged) - 1))] = value
    with contextlib.suppress(UserError):
        for _, _, decoded in decode_all(Path("a.dcm"), bytes(damaged), PREPARATION):
            assert decoded.square.shape[:2] == (SIDE, SIDE)
            assert np.isfinite(decoded.square).all()


@given(st.binary(max_size=400))
def test_any_bytes_give_a_user_error(content) -> None:
    with pytest.raises(UserError):
        list(decode_all(Path("a.dcm"), content, PREPARATION))
