"""What a card says of preprocessing is complete and possible."""

from __future__ import annotations

import msgspec
import pytest

from models.preprocessing import Column, Pictures, Preprocessing, Table

AGE = Column("age", (), 50.0)
PLACE = Column("place", ("ward", "home"))


def table(width: int, impute: str = "mean") -> Table:
    scale = (0.0,) * width, (1.0,) * width
    return Table((AGE, PLACE), ("",), ".", impute, *scale)  # type: ignore[arg-type]


def test_a_table_has_an_input_for_each_number_category_and_indicator() -> None:
    assert table(3).width == 3
    assert table(5, "indicator").width == 5
    with pytest.raises(ValueError, match="3 means"):
        table(4)


def test_pictures_have_a_mean_and_a_deviation_for_each_channel() -> None:
    Pictures(8, 1, (0.5,), (0.2,))
    for mean, std in (((0.5,), (0.2,)), ((0.5,) * 3, (0.2, 0.2, 0.0))):
        with pytest.raises(ValueError, match="3 means"):
            Pictures(8, 3, mean, std)
    with pytest.raises(ValueError, match="lower to a higher"):
        Pictures(8, 1, (0.5,), (0.2,), (5.0, 5.0))


@pytest.mark.parametrize("given", [table(3), Pictures(8, 1, (0.5,), (0.2,), (-1.0, 4095.0))])
def test_what_is_written_is_read(given: Preprocessing) -> None:
    text = msgspec.json.encode(given)
    assert msgspec.json.decode(text, type=Preprocessing) == given
