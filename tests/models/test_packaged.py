"""Weights that come with the package are read as they were written, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedstrata.support.errors import UserError
from models.networks import build
from models.packaged import licence_of_packaged, names, read_file, read_packaged, write_packaged


def written(folder: Path) -> Path:
    path = folder / "made.json"
    tensors = {"conv.weight": torch.tensor([[1.5, -0.25]]), "bn.num": torch.tensor(7)}
    write_packaged(path, tensors, about="a", command="make", license="Apache-2.0")
    return path


def test_what_is_written_is_read_in_float32(tmp_path: Path) -> None:
    found = read_file(written(tmp_path))
    assert torch.equal(found["conv.weight"], torch.tensor([[1.5, -0.25]]))
    assert found["conv.weight"].dtype == torch.float32
    assert found["bn.num"].item() == 7


@pytest.mark.parametrize(
    "change", [{"tensors": "AAAA"}, {"tensors": "?"}, {"content_hash": "0" * 64}, {"more": 1}]
)
def test_a_damaged_file_is_an_error_with_the_way_out(tmp_path: Path, change: Any) -> None:
    path = written(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"made\.json are damaged: install the package again"):
        read_file(path)


def test_a_name_that_there_is_not_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"weights\.name 'drawn_face' does not exist.*drawn_faces"):
        read_packaged("drawn_face")


def test_the_licence_is_that_of_the_file() -> None:
    assert licence_of_packaged("drawn_faces") == "Apache-2.0"
    with pytest.raises(UserError, match="drawn_faces"):
        licence_of_packaged("drawn_face")


def test_the_weights_that_come_with_it_are_those_of_the_body() -> None:
    assert list(names()) == ["drawn_faces"]
    network = build("small_cnn", input_shape=(3, 48, 48), classes=2, head=[64])
    body = {n for n in network.state_dict() if not n.startswith("head.")}
    assert read_packaged("drawn_faces").keys() == body
