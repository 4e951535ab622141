"""Decodes DICOM files: their values as the modality means them, and no word of their header."""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from client_app.data.cells import Faults
from client_app.data.decoding import MOST_PIXELS, TooManyPixelsError
from client_app.data.formats import DICOM, suffix_of
from client_app.data.groups import group_key
from client_app.data.paths import describe_file
from client_app.data.pixels import (
    EIGHT_BITS,
    Decoded,
    Facts,
    Plane,
    Preparation,
    chosen_slices,
    square_of_image,
    square_of_planes,
)
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import PrivateText, UserError

MOST_FRAMES = 100_000
_DEFLATED = "1.2.840.10008.1.2.1.99"
_KEY_BYTES = 32
PATIENT = "patient"  # as data.group
NO_PATIENT = ""
PATIENT_ID = "DICOM's PatientID"  # what says whose a picture is, in texts
MOST_LOOKED_AT = 1000  # files whose patients are compared where nobody asked for it
# Nothing else of a header is read, so nothing else can get anywhere: no name, no date.
_TAGS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "RedPaletteColorLookupTableDescriptor"),
    *("GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor"),
    *("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
]


class DicomError(ValueError):
    """What is wrong with a DICOM file, in words that hold nothing of its header."""


def is_dicom(content: bytes) -> bool:
    """Return whether a file says that it is DICOM, whatever its name."""
    return content[128:132] == b"DICM"


def frames_of(content: bytes, preparation: Preparation) -> tuple[list[int], int]:
    """Return which frames of a file are pictures, and how many it has.

    Raises
    ------
    DicomError
        It cannot be read, or there is no decoder for it.
    TooManyPixelsError
        A frame has more than `MOST_PIXELS`.
    """
    count = _frame_count(_header(content))
    return chosen_slices(count, preparation.slices), count


def decode_frames(
    content: bytes, preparation: Preparation, frames: Sequence[int]
) -> Iterator[Decoded]:
    """Yield these frames of a file.

    Raises
    ------
    DicomError
        As `frames_of`, or a frame is damaged.
    """
    header = _header(content)
    _frame_count(header)
    for frame in frames:
        try:
            stored = _pixels().pixel_array(io.BytesIO(content), index=frame)
        except AttributeError:
            raise DicomError("it has no pixels, or lacks what describes them") from None
        except Exception as error:  # the decoders' own words may hold values of the header
            raise DicomError(f"its pixels cannot be decoded: {type(error).__name__}") from None
        yield _decoded(stored, header, frame, preparation)


def _header(content: bytes) -> Any:
    """Return the data set without its pixels, and only with `_TAGS`."""
    pydicom = _pydicom()
    try:
        header = pydicom.dcmread(
            io.BytesIO(content), force=True, stop_before_pixels=True, specific_tags=_TAGS
        )
        syntax = header.file_meta.get("TransferSyntaxUID")
    except Exception as error:
        raise DicomError(f"not a readable DICOM file: {type(error).__name__}") from None
    if syntax is None or "Rows" not in header:
        raise DicomError("a DICOM file without a picture, such as a report")
    _require_decoder(syntax)
    return header


def _pydicom() -> Any:
    try:
        pydicom: Any = import_module("pydicom")
    except ModuleNotFoundError:
        raise MissingReaderError(
            "DICOM files need pydicom: pip install 'fedstrata[medical]' at this site"
        ) from None
    # It warns of values that are not as the standard says, and quotes them.
    import_module("pydicom.config")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").disabled = True
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?$")
    return pydicom


def _pixels() -> Any:
    return import_module("pydicom.pixels")


class MissingReaderError(UserError):
    """A package that reads this kind of files is not installed."""


def _require_decoder(syntax: Any) -> None:
    if not syntax.is_transfer_syntax or syntax == _DEFLATED:
        # Deflated files are refused, for they can unpack to a thousand times their size.
        name = "Deflated Explicit VR Little Endian" if syntax == _DEFLATED else "private"
        raise DicomError(f"its transfer syntax ({name}) is not read here; save it uncompressed")
    try:
        available = bool(_pixels().get_decoder(syntax).is_available)
    except NotImplementedError:
        available = False
    if not available:
        raise DicomError(
            f"there is no decoder here for its transfer syntax ({syntax.name}); "
            "save it uncompressed, or install a decoder for pydicom"
        )


def _frame_count(header: Any) -> int:
    try:
        rows, columns = int(header.Rows), int(header.Columns)
        count = int(header.get("NumberOfFrames") or 1)
    except Exception:
        raise DicomError("its number of rows, columns or frames is no number") from None
    if rows * columns > MOST_PIXELS:
        raise TooManyPixelsError(f"{columns} x {rows} pixels are")
    if rows < 1 or columns < 1 or not 1 <= count <= MOST_FRAMES:
        raise DicomError(f"its rows, columns or frames are none, or more than {MOST_FRAMES:,}")
    return count


def _decoded(stored: Plane, header: Any, frame: int, preparation: Preparation) -> Decoded:
    try:
        photometric = str(header.PhotometricInterpretation)
        window = _window(header, frame)
        if photometric == "PALETTE COLOR":
            stored = _pixels().apply_color_lut(stored, header)
            if stored.dtype == np.uint16:  # a palette's 16 bits are those of 8, spread
                stored = (stored >> 8).astype(np.uint8)
        inverted = photometric == "MONOCHROME1"
        if stored.ndim == 3 and stored.dtype == np.uint8:
            return _of_eight_bits(stored, preparation, window)
        if stored.ndim == 3:
            planes = [stored[..., channel] for channel in range(3)]
            return square_of_planes(planes, preparation, **window)
        values = _modality_values(stored, header, frame)
        if values.dtype == np.uint8 and header.BitsStored == 8:
            return _of_eight_bits(255 - values if inverted else values, preparation, window)
        hidden = _padding(stored, header)
        if hidden is not None and not hidden.all():
            black = values[~hidden].max() if inverted else values[~hidden].min()
            values = np.where(hidden, black, values)
        return square_of_planes([values], preparation, inverted=inverted, **window)
    except Exception as error:
        raise DicomError(f"its pixels make no picture: {type(error).__name__}") from None


def _of_eight_bits(values: Plane, preparation: Preparation, window: dict[str, Any]) -> Decoded:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values))
    square = square_of_image(image, preparation)
    return Decoded(square, Facts(*EIGHT_BITS, colored=values.ndim == 3, **window), image.size)


def _modality_values(stored: Plane, header: Any, frame: int) -> Plane:
    """Return the values in the modality's own unit, such as Hounsfield units."""
    if header.get("ModalityLUTSequence"):
        return np.asarray(_pixels().apply_modality_lut(stored, header))
    group = _functional_group(header, frame, "PixelValueTransformationSequence") or header
    slope = float(group.get("RescaleSlope", 1) if group.get("RescaleSlope") is not None else 1)
    intercept = float(group.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return stored.astype(np.float64) * slope + intercept


def _window(header: Any, frame: int) -> dict[str, Any]:
    """Return the range that the file asks to be shown; the first, where it names several."""
    group = _functional_group(header, frame, "FrameVOILUTSequence") or header
    try:
        center, width = (_first(group.get(name)) for name in ("WindowCenter", "WindowWidth"))
    except Exception:  # what is written there is no number
        return {}
    if center is None or width is None or not width > 0:
        return {}
    return {"window_low": center - width / 2, "window_high": center + width / 2}


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None


def _functional_group(header: Any, frame: int, name: str) -> Any:
    """Return the item of a frame in a file with many, or of all frames; None in other files."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (
        *per_frame[frame : frame + 1],
        *(header.get("SharedFunctionalGroupsSequence") or []),
    ):
        if groups.get(name):
            return groups[name][0]
    return None


def _padding(stored: Plane, header: Any) -> Plane | None:
    """Return where a frame only fills up the rectangle, or None."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return None
    last = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    if stored.dtype.kind == "i" and low > np.iinfo(stored.dtype).max:  # written as if unsigned
        bits = 8 * stored.dtype.itemsize
        low, high = low - (1 << bits), high - (1 << bits)
    return np.asarray((stored >= low) & (stored <= high))


# -- whose picture it is ---------------------------------------------------------------------------


def dicom_patient(path: Path, key: bytes) -> str:
    """Return what stands for the patient of a DICOM file: a keyed hash of its PatientID.

    Without the key, which never leaves the site, nobody can try out names or numbers. Of a file
    that cannot be decoded it is `NO_PATIENT`: what decodes it says so, or leaves it out.

    Raises
    ------
    UserError
        The file is another one than DICOM, or has no PatientID.
    """
    pydicom = _pydicom()
    try:
        header = pydicom.dcmread(
            path, force=True, stop_before_pixels=True, specific_tags=["PatientID", "Rows"]
        )
        damaged = "Rows" not in header
    except OSError:
        return NO_PATIENT
    except Exception:
        header, damaged = {}, True
    if damaged and suffix_of(path) in DICOM:
        return NO_PATIENT
    try:
        patient = str(header.get("PatientID") or "").strip()
    except Exception as error:
        reason = f": its PatientID cannot be read: {type(error).__name__}"
        raise UserError(describe_file(path) + reason) from None
    if not patient:
        raise UserError(
            describe_file(path) + ": has no PatientID, by which data.group=patient goes"
        )
    return hmac.new(key, group_key(patient).encode(), hashlib.sha256).hexdigest()[:32]


def dicom_patients(paths: Sequence[Path], folder: Path | None) -> list[str]:
    """Return `dicom_patient` for each path, with the site's key in ``folder``.

    Raises
    ------
    UserError
        Files without a PatientID, all of which it counts.
    """
    key, faults = patient_key(folder), Faults()
    patients = []
    for path in paths:
        try:
            patients.append(dicom_patient(path, key))
        except MissingReaderError:
            raise
        except UserError as error:
            faults.add(PrivateText(str(error), error.public))
    faults.raise_any("; or use a column or a pattern: data.group, data.group_pattern")
    return patients


def some_patients(paths: Sequence[str], folder: Path | None) -> list[str] | None:
    """Return `dicom_patient` of at most `MOST_LOOKED_AT` DICOM files, "" for others; None of none.

    It is for a warning alone: what cannot be read is no fault here.
    """
    rows = [row for row, path in enumerate(paths) if path.lower().endswith(tuple(DICOM))]
    key, found = patient_key(folder) if rows else b"", [""] * len(paths)
    for row in rows[:MOST_LOOKED_AT]:
        with suppress(UserError):
            found[row] = dicom_patient(Path(paths[row]), key)
    return found if any(found) else None


def patient_key(folder: Path | None) -> bytes:
    """Return the site's own key for `dicom_patient`, which is made where there is none.

    Parameters
    ----------
    folder : Path or None
        The site's cache; None for a key that is forgotten.
    """
    if folder is None:
        return secrets.token_bytes(_KEY_BYTES)
    path = folder / "patients.key"
    for _ in range(2):
        if path.is_file() and len(key := path.read_bytes()) == _KEY_BYTES:
            return key
        with replacing_private(path) as unfinished:
            unfinished.write_bytes(secrets.token_bytes(_KEY_BYTES))
    return path.read_bytes()
