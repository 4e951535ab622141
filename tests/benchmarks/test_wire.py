"""The table of the wire follows from the bytes that were counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.wire_setups import EXACT, faces
from benchmarks.measure.site_bytes import SiteBytes
from benchmarks.report.tables import Figure, write
from benchmarks.wire import STOCK, accuracy_in, accuracy_note, main, only, parse, table, write_added


def test_the_table_has_how_many_times_fewer_bytes() -> None:
    setup = faces(Path("/body"))
    sizes = {
        STOCK: SiteBytes(40e6, 80e6, 100e6),
        EXACT.name: SiteBytes(30e6, 30e6, 60e6),
        "few": SiteBytes(1e6, 1e6, 1e6),
    }
    accuracy = {STOCK: Figure((0.6,)), EXACT.name: Figure((0.9,)), "few": Figure((0.895,))}
    rows = table(setup, sizes, accuracy).rows
    assert rows[STOCK][:6] == ("40.000", "80.000", "120.000", "100.000", "1.20", "-")
    assert rows[EXACT.name][:6] == ("30.000", "30.000", "60.000", "60.000", "1.00", "2.0")
    assert rows["few"][3:6] == ("1.000", "2.00", "60.0")
    assert [rows[case][7] for case in sizes] == ["-30.00", "-", "-0.50"]
    assert table(setup, sizes, {}).rows[EXACT.name][6:] == (None, "-")


def test_sizesthat_are_counted_again_keep_the_accuracy(tmp_path: Path) -> None:
    setup = faces(Path("/body"))
    sizes = {STOCK: SiteBytes(4, 8, 10), EXACT.name: SiteBytes(3, 3, 6)}
    accuracy = {STOCK: Figure((0.6, 0.7)), EXACT.name: None}
    written, made = tmp_path / "wire-faces.json", [table(setup, sizes, accuracy)]
    write(tmp_path, "wire-faces", made, command="with seeds")
    found, made_with = accuracy_in(written)
    assert found == accuracy
    assert made_with is not None
    assert made_with["command"] == "with seeds"
    write(tmp_path, "wire-faces", made, command="again", more={"accuracy_from": made_with})
    assert accuracy_in(written) == (accuracy, made_with)
    assert accuracy_in(tmp_path / "wire-har.json") == ({}, None)


def test_data_that_is_named_and_missing_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--har", str(tmp_path / "har.npz"), "--bytes-only"])
    assert f"--har: there is no {tmp_path / 'har.npz'}" in capsys.readouterr().err


def test_the_note_says_when_the_accuracy_was_measured() -> None:
    setup, measured = faces(Path("/body")), {"few": Figure((0.5,))}
    assert "two rounds, which says nothing" in accuracy_note(setup, parse(["--quick"]), measured)
    again = parse(["--bytes-only"])
    assert "measured before the bytes" in accuracy_note(setup, again, measured)
    assert accuracy_note(setup, again, {}) == "Accuracy was not measured."
    assert accuracy_note(setup, parse([]), measured).startswith("Accuracy: mean over 10 simulated")


def test_a_coding_is_added_to_the_table_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = faces(Path("/body"))
    assert [case.name for case in only(setup, parse(["--add", "low rank"]).add).cases] == [
        "low rank"
    ]
    sizes = {STOCK: SiteBytes(4, 8, 10), EXACT.name: SiteBytes(3, 3, 6)}
    accuracy = {STOCK: Figure((0.6, 0.7)), EXACT.name: Figure((0.8, 0.9))}
    counted = {case: [size.up, size.down, size.layers] for case, size in sizes.items()}
    write(
        tmp_path,
        "wire-faces",
        [table(setup, sizes, accuracy)],
        command="all",
        notes=["A note."],
        more={"bytes": counted, "before": 7},
    )
    path = tmp_path / "wire-faces.json"
    added = {"int8": SiteBytes(1, 1, 2)}
    write_added(setup, path, added, {"int8": Figure((0.8, 0.88))}, "few")
    found, made_with = accuracy_in(path)
    assert found == {**accuracy, "int8": Figure((0.8, 0.88))}
    assert made_with is not None
    assert made_with["command"] == "all"
    assert json.loads(path.read_text())["bytes"] == {**counted, "int8": [1, 1, 2]}
    text = (tmp_path / "wire-faces.md").read_text()
    assert "A note.\nAdded later, bytes and accuracy: int8 by `few`." in text
    assert "-1.00" in text  # points against exact layers
    capsys.readouterr()
    with pytest.raises(SystemExit, match="--add: there is no"):
        main(["--add", "int8", "--sets", "faces", "--output", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        parse(["--add", "no coding"])
    assert "'low rank'" in capsys.readouterr().err
