"""The packaged generator is made by a command: its pictures, and that it learns them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedstrata.support.errors import UserError
from models.generators import StyleGenerator
from models.generators.train import Pictures, faces, main, medmnist, together, train
from models.packaged import read_file


def test_faces_have_a_class_for_each_combination() -> None:
    made = faces(8, 0)
    assert made.values.shape == (8, 3, 32, 32)
    assert made.count == 4
    assert set(made.classes) <= set(range(4))


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 28, 28, 3)])
def test_a_file_of_medmnist_gives_pictures_of_three_channels(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "set.npz"
    values = np.full(shape, 90, dtype=np.uint8)
    np.savez(path, train_images=values, train_labels=np.array([[0], [1], [1], [2], [0]]))
    made = medmnist(path)
    assert made.values.shape == (5, 3, 32, 32)
    assert set(made.values.flatten()) == {90}
    both = together([faces(4, 0), made])
    assert both.count == 7
    assert list(both.classes[4:]) == [4, 5, 5, 6, 4]


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(b"no")
    with pytest.raises(UserError, match="is no file of MedMNIST"):
        medmnist(path)
    np.savez(path, train_images=np.zeros((2, 4)), train_labels=np.zeros(2))
    with pytest.raises(UserError, match="no pictures of 8 bits with a class each"):
        medmnist(path)
    with pytest.raises(UserError, match="nothing to learn from"):
        main(["--out", str(tmp_path / "g.json"), "--faces", "0"])


def test_it_learns_which_class_is_bright() -> None:
    values = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    values[1] = 255
    network = train(Pictures(values, np.array([0, 1]), 2), 40, 0)
    made = StyleGenerator(network)
    with torch.no_grad():
        chosen = functional.one_hot(torch.tensor([0, 1]), 2).float()
        pictures = made.pictures(network.mapping(torch.randn(2, 32), chosen))
    assert float(pictures[1].mean()) > float(pictures[0].mean()) + 0.1


def test_the_command_writes_a_file_that_says_how_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    main(["--out", str(path), "--faces", "4", "--steps", "1", "--seed", "3"])
    assert "synthesis.b32.conv1.weight" in read_file(path)
    text = path.read_text()
    assert "--out models/generators/g.json --faces 4 --steps 1 --seed 3" in text
    assert str(tmp_path) not in text
