"""Which files are pictures: their suffixes, by what reads them."""

from __future__ import annotations

from pathlib import PurePath

# Only what Pillow reads without starting programs (as for EPS), and what is well tested there.
PILLOW = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
DICOM = (".dcm", ".dicom", ".ima")
NIFTI = (".nii", ".nii.gz")
SUFFIXES = (*PILLOW, *DICOM, *NIFTI)


def suffix_of(path: PurePath) -> str | None:
    """Return the suffix among `SUFFIXES` with which a file's name ends, in any case, or None."""
    name = path.name.lower()
    return next((suffix for suffix in reversed(SUFFIXES) if name.endswith(suffix)), None)


def is_picture(path: PurePath) -> bool:
    """Return whether a file's name says that it is a picture."""
    return suffix_of(path) is not None
