"""Files are read as a card says, by the code of the training; what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.pixels import VERSION
from client_app.model_inputs import files_of, read_inputs
from fedstrata.support.errors import UserError
from models.preprocessing import Column, Measurements, Pictures, Table
from tests.helpers.data_files import picture
from tests.helpers.model_cards import card

PICTURES = card(preprocessing=Pictures(8, 3, (0.5,) * 3, (0.5,) * 3))
SCALE = (50.0, 0.0, 0.0), (10.0, 1.0, 1.0)
COLUMNS = (Column("age", (), 40.0), Column("place", ("ward", "home")))
TABLE = card(preprocessing=Table(COLUMNS, ("", "?"), ".", "mean", *SCALE))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def all_of(found) -> np.ndarray:  # type: ignore[no-untyped-def]
    return found.inputs.batch(np.arange(len(found.places))).numpy()


def test_damaged_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    seen: list[tuple[int, int]] = []
    files = files_of(PICTURES, [tmp_path])
    found = read_inputs(PICTURES, files, tmp_path, lambda done, of: seen.append((done, of)))
    assert [path.name for path, _ in found.places] == ["0.png", "2.png"]
    assert len(found.wrong) == 1
    assert "1.png: not a readable picture" in found.wrong[0]
    assert all_of(found).shape == (2, 3, 8, 8)
    assert seen == [(3, 3)]
    second = found.take([1])
    assert second.places == found.places[1:]
    assert np.array_equal(all_of(second), all_of(found)[1:])


def test_gaps_of_a_table_are_filled_as_at_the_site(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "place,age,more\nhome,70,x\nward,?,y\n,60,z\n")
    found = read_inputs(TABLE, [path], tmp_path)
    assert found.places == ((path, 2), (path, 3), (path, 4))
    assert all_of(found).tolist() == [[2, 0, 1], [-1, 1, 0], [1, 0, 0]]


def test_rows_with_gaps_are_left_out_where_the_model_drops_them(tmp_path: Path) -> None:
    columns = (Column("age"), COLUMNS[1])
    drops = card(preprocessing=Table(columns, ("",), ".", "drop", *SCALE))
    path = written(tmp_path / "t.csv", "place,age\nhome,70\nward,\n")
    found = read_inputs(drops, [path], tmp_path)
    assert found.places == ((path, 2),)
    assert "line 3: column 'age' has no value" in found.wrong[0]


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    good = written(tmp_path / "a.csv", "place,age\nhome,70\n")
    ragged = written(tmp_path / "b.csv", "place,age\nhome\n")
    lacks = written(tmp_path / "c.csv", "age\n70\n")
    found = read_inputs(TABLE, [good, ragged, lacks], tmp_path)
    assert found.places == ((good, 2),)
    assert "b.csv" in found.wrong[0]
    assert "no column 'place'" in found.wrong[1]


def test_what_was_put_into_gaps_is_said_by_file(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{n}.csv", "place,age\nhome,70\nward,\n") for n in "ab"]
    found = read_inputs(TABLE, paths, tmp_path)
    assert len(found.notes) == 2
    assert "a.csv: column 'age' has no value in 1 of 2 rows: 40 put in" in found.notes[0]


def test_measurements_are_rows_of_numbers(tmp_path: Path) -> None:
    described = card(preprocessing=Measurements(3, "three numbers"))
    holes = np.ones((3, 3), np.float32)
    holes[1, 2] = np.nan
    for name, values in (
        ("a", np.ones((2, 3), np.float32)),
        ("b", np.ones((2, 4), np.float32)),
        ("c", holes),
    ):
        np.savez(tmp_path / f"{name}.npz", x=values)
    found = read_inputs(described, files_of(described, [tmp_path]), tmp_path)
    assert [(path.stem, row) for path, row in found.places] == [
        ("a", 0),
        ("a", 1),
        ("c", 0),
        ("c", 2),
    ]
    assert "rows of 3 numbers" in found.wrong[0]
    assert "c.npz, row 1: has values that are not finite" in found.wrong[1]


def test_a_manifest_names_files_beside_it(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    manifest = written(tmp_path / "m.csv", "path,why\na.png,first\na.png,again\n")
    assert files_of(PICTURES, [], manifest) == [tmp_path / "a.png"]
    outside = written(tmp_path / "n.csv", "path\n../../etc/passwd\n")
    with pytest.raises(UserError, match="line 2"):
        files_of(PICTURES, [], outside)


def test_what_gives_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files: name files"):
        files_of(PICTURES, [])
    with pytest.raises(UserError, match="no file that this model takes"):
        files_of(TABLE, [tmp_path])
    with pytest.raises(UserError, match="no file can be read"):
        read_inputs(PICTURES, [tmp_path / "gone.png"], tmp_path)


def test_a_card_that_says_no_preprocessing_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fedstrata tune"):
        read_inputs(card(preprocessing=None, state="public"), [tmp_path], tmp_path)
    with pytest.raises(UserError, match="does not say how files"):
        read_inputs(card(preprocessing=None), [tmp_path], tmp_path)
    with pytest.raises(UserError, match="fedstrata tune"):
        files_of(card(preprocessing=None, state="public"), [tmp_path])


def test_pictures_of_other_decoders_are_rejected(tmp_path: Path) -> None:
    later = card(preprocessing=Pictures(8, 3, (0.5,) * 3, (0.5,) * 3, decoder=VERSION + 1))
    with pytest.raises(UserError, match="use the fedstrata that trained it"):
        read_inputs(later, [tmp_path / "a.png"], tmp_path)
