"""Files of rounds that a run gave up are moved, never deleted, and not without bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from client_app.set_aside import (
    MOST_REPEATED,
    MOST_SET_ASIDE,
    put_by,
    remove_repeated,
    set_aside,
)
from fedstrata.support import tensor_files
from fedstrata.support.errors import UserError


def files_in(folder: Path, *rounds: int) -> list[Path]:
    """Return new files of rounds, each with its number as its content."""
    files = [folder / f"round-{number:06d}.safetensors" for number in rounds]
    for number, path in zip(rounds, files, strict=True):
        path.write_text(str(number))
    return files


def test_files_are_moved_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_aside(tmp_path, files_in(tmp_path, 4, 5), 4)
    set_aside(tmp_path, files_in(tmp_path, 4), 3)
    moved = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.glob("*/*/*")}
    name = "set-aside/{}/round-{}.safetensors"
    assert moved == {
        name.format("001", "000004"): "4",
        name.format("001", "000005"): "5",
        name.format("002", "000004"): "4",
    }
    assert "round 4 is ordered, and this site has trained up to round 5" in caplog.text
    assert "rounds 4, 5 are now in" in caplog.text


def test_when_too_much_is_there_nothing_is_moved(tmp_path: Path) -> None:
    for _ in range(MOST_SET_ASIDE):
        set_aside(tmp_path, files_in(tmp_path, 2), 1)
    (left,) = files_in(tmp_path, 2)
    with pytest.raises(UserError, match="the personal layers of 12 histories are set aside"):
        set_aside(tmp_path, [left], 1)
    assert left.exists()


def layers(folder: Path, number: int, value: float) -> Path:
    """Return the file of a round with one tensor."""
    path = folder / f"round-{number:06d}.safetensors"
    tensor_files.save(path, {"w": torch.tensor([value])}, {"at": str(value)})
    return path


def test_rounds_that_are_played_again_stay_until_they_end_with_the_same_layers(
    tmp_path: Path,
) -> None:
    repeated = tmp_path / "set-aside" / "repeated"
    assert put_by(tmp_path, [layers(tmp_path, 4, 4.0), layers(tmp_path, 5, 5.0)])
    assert not list(tmp_path.glob("round-*"))
    remove_repeated(tmp_path, layers(tmp_path, 4, 4.5))
    assert len(list(repeated.iterdir())) == 2
    remove_repeated(tmp_path, layers(tmp_path, 4, 4.0))
    assert [path.name[-13] for path in repeated.iterdir()] == ["5"]
    remove_repeated(tmp_path, layers(tmp_path, 5, 5.0))
    assert not (tmp_path / "set-aside").exists()


def test_other_layers_of_a_round_that_is_put_by_are_not_replaced(tmp_path: Path) -> None:
    assert put_by(tmp_path, [layers(tmp_path, 4, 4.0)])
    assert put_by(tmp_path, [layers(tmp_path, 4, 4.0)])
    other = layers(tmp_path, 4, 4.5)
    assert not put_by(tmp_path, [other])
    assert other.exists()
    (tmp_path / "set-aside" / "repeated" / other.name).write_bytes(b"damaged")
    assert not put_by(tmp_path, [other])


def test_no_more_than_so_many_rounds_are_put_by(tmp_path: Path) -> None:
    files = [layers(tmp_path, number, 1.0) for number in range(1, MOST_REPEATED + 2)]
    assert not put_by(tmp_path, files)
    assert all(path.exists() for path in files)
    assert put_by(tmp_path, files[:-1])
