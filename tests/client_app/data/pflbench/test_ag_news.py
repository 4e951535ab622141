"""AG News: a text becomes the share of its words in each column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.pflbench.ag_news import WORDS, read_ag_news, shares_of_words
from fedstrata.support.errors import UserError
from tests.helpers.published_files import ag_news_files

LARGEST = 1 << 20


def test_rows_have_a_kind_and_shares_of_words(tmp_path: Path) -> None:
    made = read_ag_news(ag_news_files(tmp_path / "ag_news_csv").parent, LARGEST)
    assert made.labels.tolist() == [0, 1, 2, 3] * 25
    assert int(made.tested.sum()) == 20
    values = made.values(np.array([0, 99]))
    assert values.shape == (2, WORDS)
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-6)
    assert made.where(80).whole.endswith("test.csv, line 1")


def test_words_are_compared_without_case_and_marks() -> None:
    one, same, other, none = shares_of_words(["The end, the END", "end the", "the start", "..."])
    assert one.tolist() == same.tolist() != other.tolist()
    assert sorted(one[one > 0].tolist()) == [0.5, 0.5]
    assert not none.any()


@pytest.mark.parametrize("row", ['"5","a","b"', '"Class Index","Title"', '"1"'])
def test_a_row_that_is_no_news_is_named(tmp_path: Path, row: str) -> None:
    ag_news_files(tmp_path)
    (tmp_path / "test.csv").write_text(f'"1","a","b"\n{row}\n')
    with pytest.raises(UserError, match="line 2: a class from 1 to 4"):
        read_ag_news(tmp_path, LARGEST)


def test_missing_large_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no train\.csv"):
        read_ag_news(tmp_path, LARGEST)
    ag_news_files(tmp_path)
    with pytest.raises(UserError, match=r"larger than data\.largest_mb"):
        read_ag_news(tmp_path, 10)
    (tmp_path / "test.csv").write_bytes(b'"1","\xff"\n')
    with pytest.raises(UserError, match="cannot be read"):
        read_ag_news(tmp_path, LARGEST)
    (tmp_path / "test.csv").write_bytes(b"")
    with pytest.raises(UserError, match="has no rows"):
        read_ag_news(tmp_path, LARGEST)
