"""A picture of the first inputs as the network sees them: for a person who looks for mistakes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.training.data import SiteData

COLUMNS, MOST = 4, 16
LEAST_SIDE = 128  # pixels of a picture on the sheet: smaller ones are enlarged without smoothing
_BORDER, _TEXT = 4, 14


def contact_sheet(data: SiteData, options: Mapping[str, object]) -> bytes | None:
    """Return a PNG with up to `MOST` training pictures, class by class in turn; None without pictures.

    Parameters
    ----------
    data : SiteData
        The site's data.
    options : mapping
        The configuration's ``data``: its ``mean`` and ``std`` are undone.
    """
    if len(data.input_shape) != 3 or data.input_shape[0] not in (1, 3):
        return None
    rows = _in_turn(data)
    inputs = data.train.inputs.batch(rows).numpy().transpose(0, 2, 3, 1)
    pictures = _visible(inputs, options)
    side = max(LEAST_SIDE, *pictures.shape[1:3])
    cell = side + _BORDER
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell + _BORDER, lines * (cell + _TEXT) + _BORDER), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        left = _BORDER + place % COLUMNS * cell
        upper = _BORDER + place // COLUMNS * (cell + _TEXT)
        image = Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
        enlarged = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, upper))
        draw.text((left, upper + side), _label(data, int(row)), fill="black")
    written = io.BytesIO()
    sheet.save(written, "PNG")
    return written.getvalue()


def _in_turn(data: SiteData) -> NDArray[np.int64]:
    """Return rows of training examples: of each label the first, then the second, ..."""
    labels = data.train.labels
    keys = labels if labels.ndim == 1 else np.arange(len(labels))
    seen: dict[float, int] = {}
    turns = np.empty(len(keys), dtype=np.int64)
    for row, key in enumerate(keys.tolist()):
        turns[row] = seen[key] = seen.get(key, -1) + 1
    return np.lexsort((np.arange(len(keys)), turns))[:MOST].astype(np.int64)


def _visible(inputs: NDArray[np.float32], options: Mapping[str, object]) -> NDArray[np.uint8]:
    """Undo the normalization: values in [0, 1] become 0 to 255."""
    mean, std = (_per_channel(options.get(name), inputs.shape[3]) for name in ("mean", "std"))
    if mean is None or std is None:  # normalized by something that the configuration does not say
        low, high = float(inputs.min()), float(inputs.max())
        scaled = (inputs - low) / max(high - low, 1e-12)
    else:
        scaled = inputs * std + mean
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)


def _per_channel(numbers: object, channels: int) -> NDArray[np.float32] | None:
    if not isinstance(numbers, list | tuple) or len(numbers) not in (1, channels):
        return None
    return np.array(numbers, dtype=np.float32)


def _label(data: SiteData, row: int) -> str:
    label = data.train.labels[row]
    if data.train.labels.ndim == 1:
        text = data.classes[int(label)]
    elif data.kind.name == "labels":
        text = ", ".join(n for n, held in zip(data.classes, label, strict=True) if held == 1)
    else:
        text = ", ".join(f"{number:g}" for number in label)
    return text.encode("ascii", "replace").decode()[:24]
