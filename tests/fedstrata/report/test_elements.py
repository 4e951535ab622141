"""Drawings escape every text."""

from __future__ import annotations

from xml.etree import ElementTree

from fedstrata.report.elements import WIDTH, Drawing, fitting, legend
from tests.helpers.run_results import HOSTILE


def test_hostile_text_is_text() -> None:
    drawing = Drawing(100, HOSTILE)
    drawing.text(1, 2, HOSTILE, "end", HOSTILE)
    drawing.shape("rect", HOSTILE, HOSTILE, x=1, y=2)
    drawing.mark("circle", 3, 4, "dot", HOSTILE + "\x00\x1b")
    markup = drawing.markup()
    assert "<script" not in markup
    read = ElementTree.fromstring(markup)
    assert [text.text for text in read.iter("text")] == [HOSTILE]
    assert [title.text for title in read.iter("title")] == [HOSTILE, HOSTILE, HOSTILE + "??"]
    assert read.get("viewBox") == f"0 0 {WIDTH} 100"


def test_a_legend_says_what_a_mark_means() -> None:
    made = legend([("line", "curve c0", HOSTILE), ("band", "band c0", "sites")])
    assert made.count("<svg") == made.count("<li>") == 2
    assert "&lt;script&gt;" in made
    assert "<script" not in made


def test_a_long_name_is_cut_to_its_room() -> None:
    assert fitting("site-01", 100) == "site-01"
    assert fitting("a-hospital-with-a-long-name", 64) == "a-hospita…"


def test_every_mark_can_be_drawn() -> None:
    drawing = Drawing(10, "marks")
    for kind in ("circle", "diamond", "square", "triangle", "tick", "cross"):
        drawing.mark(kind, 1, 1, "dot")
    assert len(list(drawing.root)) == 6
