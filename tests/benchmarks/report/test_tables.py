"""Figures over seeds, tables of them, and the files that a result is."""

from __future__ import annotations

import json
import py_compile
from pathlib import Path

import pytest

from benchmarks.report import tables
from benchmarks.report.tables import Figure, Table, times, write


def test_a_figure_is_mean_and_standard_deviation_over_the_seeds() -> None:
    assert Figure((0.9, 0.92, 0.94)).text() == "92.00 ± 2.00"
    assert Figure((0.9,)).text() == "90.00"
    assert Figure((6.5, 7.5), percent=False).text() == "7.00 ± 0.71"


def test_a_table_is_markdown_for_people_and_json_for_programs(tmp_path: Path) -> None:
    table = Table("Title", ("case", "accuracy, %"), {"one": (Figure((0.5, 0.7)),), "none": (None,)})
    assert "| one | 60.00 ± 14.14 |" in table.markdown()
    assert "| none | - |" in table.markdown()
    write(tmp_path, "it", [table], command="python -m x", notes=["A note."], more={"extra": 1})
    written = json.loads((tmp_path / "it.json").read_text())
    assert written["tables"][0]["rows"]["one"]["accuracy, %"]["values"] == [0.5, 0.7]
    assert {"command", "versions", "machine", "notes", "extra"} <= written.keys()
    assert "A note." in (tmp_path / "it.md").read_text()


def test_one_site_has_no_plural() -> None:
    assert (times(1, "site"), times(3, "site")) == ("1 site", "3 sites")


def test_a_package_is_compiled_where_its_bytecode_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "drawn_package" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not tables.compiled("drawn_package")
    assert not tables.compiled("drawn_nowhere")
    py_compile.compile(str(package))
    assert tables.compiled("drawn_package")


@pytest.mark.parametrize("saved", [True, False])
def test_a_result_says_when_every_process_compiled_its_imports(
    saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "compiled", lambda package: saved)
    write(tmp_path, "it", [Table("it", ("name", "s"))], command="python -m it")
    written = json.loads((tmp_path / "it.json").read_text())
    assert written["machine"]["compiled"] is saved
    assert (tables.UNCOMPILED in written["notes"]) is not saved
    assert (tables.UNCOMPILED in (tmp_path / "it.md").read_text()) is not saved
