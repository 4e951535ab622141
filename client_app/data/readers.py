"""Chooses what decodes a file, and says in one way what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from PIL import UnidentifiedImageError

from client_app.data import dicom, nifti
from client_app.data.decoding import FORMATS, MOST_PIXELS, TooManyPixelsError, decode_picture
from client_app.data.formats import DICOM, NIFTI, suffix_of
from client_app.data.paths import describe_file
from client_app.data.pixels import Decoded, Preparation
from fedstrata.support.errors import UserError, private

_FORMATS = ", ".join(FORMATS)


def decode_all(
    path: Path, content: bytes, preparation: Preparation
) -> Iterator[tuple[int, int, Decoded]]:
    """Yield each picture of a file: its number in the file, how many are yielded, the picture.

    Parameters
    ----------
    path : Path
        Its suffix says what decodes it; the rest is for the error text.
    content : bytes
        The file.
    preparation : Preparation
        What becomes of the pictures.

    Raises
    ------
    UserError
        The format is not known, the file is damaged, or it has too many pixels.
    """
    if not content:
        empty = private(" (the file is empty)")
        raise UserError(
            describe_file(path) + ": not a readable picture" + empty + "; mend or remove it"
        )
    with _said(path):
        if _is_single(path, content):
            yield 0, 1, decode_picture(content, preparation)
            return
        module = _module(path, content)
        frames, in_file = module.frames_of(content, preparation)
        unused = in_file - len(frames)
        for frame, decoded in zip(
            frames, module.decode_frames(content, preparation, frames), strict=True
        ):
            # Pages that are not used are counted once a file.
            first = unused if frame == frames[0] else 0
            yield (
                frame,
                len(frames),
                decoded._replace(facts=decoded.facts._replace(unused_pages=first)),
            )


def decode_one(path: Path, content: bytes, preparation: Preparation, frame: int = 0) -> Decoded:
    """Return one picture of a file; raise as `decode_all`."""
    with _said(path):
        if _is_single(path, content):
            return decode_picture(content, preparation)
        (decoded,) = _module(path, content).decode_frames(content, preparation, [frame])
        return decoded


def _is_single(path: Path, content: bytes) -> bool:
    return suffix_of(path) not in (*DICOM, *NIFTI) and not dicom.is_dicom(content)


class _Frames(Protocol):
    """What `dicom` and `nifti` have in common."""

    def frames_of(self, content: bytes, preparation: Preparation) -> tuple[list[int], int]: ...

    def decode_frames(
        self, content: bytes, preparation: Preparation, frames: Sequence[int]
    ) -> Iterator[Decoded]: ...


def _module(path: Path, content: bytes) -> _Frames:
    return nifti if suffix_of(path) in NIFTI and not dicom.is_dicom(content) else dicom


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a `UserError` about the file."""
    try:
        yield
    except UserError:
        raise
    except TooManyPixelsError as error:
        pixels = private(error, "has")
        raise UserError(
            describe_file(path) + ": " + pixels + f" more than {MOST_PIXELS:,}"
        ) from None
    except (dicom.DicomError, nifti.NiftiError) as error:
        raise UserError(describe_file(path) + f": {error}") from None
    except UnidentifiedImageError:  # whose own text names an object in memory
        reason = private(f" (its bytes are none of {_FORMATS})")
        raise UserError(
            describe_file(path) + ": not a readable picture" + reason + "; mend or remove it"
        ) from None
    except Exception as error:  # decoders raise a dozen kinds for damaged files
        reason = private(f" ({str(error) or type(error).__name__})")
        raise UserError(
            describe_file(path) + ": not a readable picture" + reason + "; mend or remove it"
        ) from error
