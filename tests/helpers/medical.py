"""Writes small DICOM and NIfTI files."""

from __future__ import annotations

import gzip
import io
import struct
from typing import Any

import numpy as np
import pytest

PATIENT = "LEE^ANN"  # in every DICOM file: it must get nowhere
PATIENT_ID = "MRN-4711"


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", **header: Any) -> bytes:
    """Return a DICOM file of ``(rows, columns)``, ``(..., 3)`` or ``(frames, rows, columns)``."""
    pydicom = pytest.importorskip("pydicom")
    syntax = header.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    colored = photometric in ("RGB", "YBR_FULL")
    shape = pixels.shape[:-1] if colored else pixels.shape
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    made = pydicom.dataset.Dataset()
    made.file_meta = meta
    made.PatientName, made.PatientID = PATIENT, PATIENT_ID
    made.SamplesPerPixel = 3 if colored else 1
    if colored:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric
    made.Rows, made.Columns = shape[-2:]
    if len(shape) == 3:
        made.NumberOfFrames = shape[0]
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored = header.pop("bits", made.BitsAllocated)
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = header.pop("encoded", pixels.tobytes())
    for name, value in header.items():
        setattr(made, name, value)
    if syntax.is_compressed:
        made["PixelData"].VR = "OB"
        made["PixelData"].is_undefined_length = True
    else:
        made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    memory = io.BytesIO()
    pydicom.dcmwrite(memory, made, enforce_file_format=True)
    return memory.getvalue()


def nifti(values: np.ndarray, affine: np.ndarray | None = None, *, packed: bool = True) -> bytes:
    """Return a NIfTI file, in gzip where ``packed``."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    content = image.to_bytes()
    return gzip.compress(content, mtime=0) if packed else content


def nifti_header(shape: tuple[int, ...], kind: int = 4, bits: int = 16) -> bytes:
    """Return the header of a NIfTI file that claims a shape, and nothing else."""
    dimensions = (len(shape), *shape, *[1] * (7 - len(shape)))
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *dimensions)
    struct.pack_into("<2h", header, 70, kind, bits)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return bytes(header)
