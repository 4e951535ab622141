"""What becomes of a file before a network takes it, as it is written in a model's card."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_COLUMNS = 20_000
Name = Annotated[str, Meta(max_length=1000)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
PerChannel = Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)]
PerInput = Annotated[tuple[float, ...], Meta(max_length=MOST_COLUMNS)]
Byte = Annotated[int, Meta(ge=0, le=255)]


class Pictures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pictures"):
    """Pictures: cut to the central square, scaled to ``size``, to 0 to 1, then ``(x - mean) / std``.

    Parameters
    ----------
    size, channels : int
        Pixels on a side; 1 for gray, 3 for red, green and blue.
    mean, std : tuple of float
        One of each per channel.
    span : tuple of float or None
        The values that become 0 and 1 in pictures of more than 8 bits; None: each picture's own
        extremes. Of 8 bits it is 0 and 255.
    for_all : bool
        Whether ``span`` is for pictures of 8 bits too.
    window_of_file : bool
        Whether a picture that names a range of its own is scaled by that.
    background : tuple of int
        Red, green and blue behind what is transparent.
    slices, nifti_axis, nifti_stride
        Which pictures of a file with several are taken, as in ``data=images``.
    crop, resampling, orientation : str
        What is the same in all models.
    decoder : int
        The version of the code that decodes.
    """

    size: Annotated[int, Meta(ge=1, le=4096)]
    channels: Literal[1, 3]
    mean: PerChannel
    std: PerChannel
    span: tuple[float, float] | None = None
    for_all: bool = False
    window_of_file: bool = False
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    slices: Literal["all", "middle"] = "all"
    nifti_axis: Literal[0, 1, 2] = 2
    nifti_stride: Annotated[int, Meta(ge=1, le=4096)] = 1
    crop: Literal["central square"] = "central square"
    resampling: Literal["bilinear"] = "bilinear"
    orientation: Literal["as EXIF says"] = "as EXIF says"
    decoder: int = 0

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"{self.channels} means, and as many deviations above 0")
        if self.span is not None and not self.span[0] < self.span[1]:
            raise ValueError("a span goes from a lower to a higher value")


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of a table that is an input.

    Parameters
    ----------
    name : str
        As in the header.
    categories : tuple of str
        Each is an input of 0 or 1; none of a number.
    fill : float or None
        What a number is where it is not known; None where that is not allowed.
    gaps : int or None
        In how many training rows of the site it was not known; None where the card does not say.
    """

    name: Name
    categories: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()
    fill: float | None = None
    gaps: Annotated[int, Meta(ge=0)] | None = None


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="table"):
    """Rows of a table: categories become 0 and 1, gaps are filled, then ``(x - mean) / std``.

    Parameters
    ----------
    columns : tuple of Column
        In the order of the inputs.
    missing : tuple of str
        Cells that mean that nothing is known.
    decimal : str
        The decimal mark.
    impute : str
        ``indicator`` adds an input for each column, 1 where it was not known; ``drop`` leaves such
        rows out.
    mean, std : tuple of float
        One of each per input, the indicators included.
    delimiter, encoding : str or None
        How files are written, where it was configured.
    """

    columns: Annotated[tuple[Column, ...], Meta(min_length=1, max_length=MOST_COLUMNS)]
    missing: Annotated[tuple[Name, ...], Meta(max_length=1000)]
    decimal: Literal[".", ","]
    impute: Literal["mean", "median", "indicator", "drop"]
    mean: PerInput
    std: PerInput
    delimiter: Annotated[str, Meta(max_length=1)] | None = None
    encoding: Annotated[str, Meta(max_length=40)] | None = None

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.width or min(self.std) <= 0:
            raise ValueError(f"{self.width} means, and as many deviations above 0")

    @property
    def width(self) -> int:
        """How many inputs there are."""
        inputs = sum(max(len(column.categories), 1) for column in self.columns)
        return inputs + (len(self.columns) if self.impute == "indicator" else 0)


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """Texts: cut into tokens, then cut or padded to ``length``.

    Parameters
    ----------
    column : str
        The column of a CSV file that has the texts.
    length : int
        Tokens of a text.
    folder : str
        The name of the folder that had the tokenizer.
    tokenizer : str
        SHA-256 of its tokens and their numbers, as ``data.tokenizer`` has it.
    delimiter, encoding : str or None
        How files are written, where it was configured.
    """

    column: Name
    length: Annotated[int, Meta(ge=1, le=8192)]
    folder: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    tokenizer: Digest
    delimiter: Annotated[str, Meta(max_length=1)] | None = None
    encoding: Annotated[str, Meta(max_length=40)] | None = None


class Measurements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="measurements"):
    """Rows of numbers that are taken as they are, such as the 561 features of UCI HAR."""

    count: Annotated[int, Meta(ge=1, le=MOST_COLUMNS)]
    source: Name


Preprocessing = Pictures | Table | Text | Measurements
