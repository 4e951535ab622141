"""Pages are quick to read: no sentence is long, most are short, and the README is a page."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, WRITTEN_BY_A_PROGRAM, name, without_fences

LONGEST, USUAL, README_LINES = 35, 15, 150
BY_HAND = [page for page in PAGES if page not in WRITTEN_BY_A_PROGRAM]
_NO_PROSE = ("|", "#", "!", "<")  # tables, headings, pictures, HTML
_ENDS = re.compile(r"(?<=[.!?:])\s+")
_ITEM = re.compile(r"(?:^|\n)(?:[-*]|\d+\.)\s+")


def sentences(text: str) -> list[list[str]]:
    """Return the words of each sentence; a paragraph and an item of a list end one, too."""
    lines = without_fences(text).splitlines()
    prose = "\n".join(line for line in lines if not line.lstrip().startswith(_NO_PROSE))
    found = []
    for paragraph in re.split(r"\n\s*\n", prose):
        for item in _ITEM.split(paragraph):
            found += [part.split() for part in _ENDS.split(item)]
    return [words for words in found if len(words) > 2]


@pytest.mark.parametrize("page", BY_HAND, ids=name)
def test_no_sentence_is_long(page: Path) -> None:
    told = [" ".join(words) for words in sentences(page.read_text()) if len(words) > LONGEST]
    assert not told


@pytest.mark.parametrize("page", BY_HAND, ids=name)
def test_most_sentences_are_short(page: Path) -> None:
    lengths = [len(words) for words in sentences(page.read_text())]
    assert not lengths or statistics.median(lengths) <= USUAL


def test_the_readme_is_a_page() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES


def test_sentences_are_counted_without_tables_and_code() -> None:
    text = (
        "# A heading of five words\n"
        "One sentence has five words. Another\nhas four more words: here is a third.\n\n"
        "| a table | is no prose |\n```\ncode is no prose\n```\n"
        "- an item of five words\n- yes, no\n"
    )
    assert [len(words) for words in sentences(text)] == [5, 5, 4, 5]
