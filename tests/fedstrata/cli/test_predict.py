"""`fedstrata predict` writes a table, names what it left out, and ends with 1 then."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from fedstrata.cli.predict import main
from models.model_card import Network
from models.preprocessing import Column, Table
from tests.helpers.data_files import picture
from tests.helpers.model_cards import card, written


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    written(tmp_path / "m.safetensors")
    (tmp_path / "files").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / "files" / f"{number}.png")
    return tmp_path / "m.safetensors"


def test_each_file_has_a_row_and_a_heat_map(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, maps = tmp_path / "t.csv", tmp_path / "maps"
    assert run(model, tmp_path / "files", "--output", table, "--heatmaps", maps) == 0
    rows = list(csv.DictReader(table.open()))
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        cat, dog = (float(row[f"probability of {name}"]) for name in ("cat", "dog"))
        assert cat + dog == pytest.approx(1)
        assert row["prediction"] == ("cat" if cat > dog else "dog")
    assert len(list(maps.iterdir())) == 3
    assert "3 predictions" in capsys.readouterr().out


def test_a_damaged_file_is_named_and_the_status_is_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files" / "1.png").write_bytes(b"junk")
    assert run(model, tmp_path / "files", "--output", tmp_path / "t.csv") == 1
    assert len(list(csv.DictReader((tmp_path / "t.csv").open()))) == 2
    said = capsys.readouterr().err
    assert "left out: " in said
    assert "1.png: not a readable picture" in said


def test_files_may_stand_after_the_options_and_have_names_that_are_no_text(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "files" / "0.png").rename(tmp_path / "files" / os.fsdecode(b"\xff.png"))
    table, maps = tmp_path / "t.csv", tmp_path / "maps"
    assert run(model, "--output", table, "--heatmaps", maps, tmp_path / "files") == 0
    assert len(list(csv.DictReader(table.open()))) == len(list(maps.iterdir())) == 3


def test_heat_maps_of_no_pictures_are_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Table((Column("age", (), 0.0),), ("",), ".", "mean", (0.0,), (1.0,))
    of_a_table = card(network=Network("mlp", (1,), options={"hidden": (4,)}), preprocessing=rows)
    tiny = card(network=Network("mlp", (3, 28, 28), options={"hidden": (4,)}))
    for described, said in ((of_a_table, "takes no pictures"), (tiny, "no feature maps")):
        written(tmp_path / "m.safetensors", described)
        table, maps = tmp_path / "t.csv", tmp_path / "maps"
        assert run(tmp_path / "m.safetensors", "a.csv", "--output", table, "--heatmaps", maps) == 1
        assert said in capsys.readouterr().err
        assert not table.exists()
        assert not maps.exists()


def test_a_row_that_is_left_out_is_named_and_the_status_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Table((Column("age", (), 40.0),), ("",), ".", "mean", (0.0,), (1.0,))
    of_a_table = card(network=Network("mlp", (1,), options={"hidden": (4,)}), preprocessing=rows)
    written(tmp_path / "m.safetensors", of_a_table)
    (tmp_path / "a.csv").write_text("id,age\n1,30\n2,old\n3,\n")
    assert run(tmp_path / "m.safetensors", tmp_path / "a.csv", "--output", tmp_path / "t.csv") == 1
    assert [row["row"] for row in csv.DictReader((tmp_path / "t.csv").open())] == ["2", "4"]
    said = capsys.readouterr()
    assert "a.csv, line 3: column 'age' is 'old', no number" in said.err
    assert "1 file or row is left out" in said.err
    assert "column 'age' has no value in 1 of 2 rows: 40 put in" in said.out


def test_a_mistake_is_one_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    written(other, card(predicts_alone=False))
    table = tmp_path / "t.csv"
    for arguments, said in (
        ((model, "--output", table), "no files: name files"),
        ((model, "a.png", "--output", "t.xls"), "ends in .csv or .parquet"),
        ((model, "a.png", "--split=test", "--output", table), "name no others"),
        (
            (model, "--split=test", "--output", table),
            "no test-examples.csv or test-examples.json beside",
        ),
        ((other, "a.png", "--output", table), "predicts with more than the network"),
        ((model, tmp_path / "files", "--output", table, "--device=tpu"), "does not exist"),
    ):
        assert run(*arguments) == 1
        assert said in capsys.readouterr().err
    assert not table.exists()
