"""The contact sheet shows what the network sees."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from client_app.contact_sheet import contact_sheet
from fedstrata.protocol.task_kinds import TaskKind
from models.training.data import ArrayInputs, SiteData, Split


def data_of(pictures: np.ndarray, labels: np.ndarray, kind: str = "classes") -> SiteData:
    split = Split(ArrayInputs(pictures, (0.5,), (0.25,)), labels)
    shape = (pictures.shape[3], *pictures.shape[1:3])
    return SiteData("north", "task", ("a", "b"), shape, split, split, split, TaskKind(kind))


def test_the_normalization_is_undone_and_classes_take_turns() -> None:
    values = np.array([10, 20, 30, 200], np.uint8)
    pictures = np.broadcast_to(values[:, None, None, None], (4, 8, 8, 1)).copy()
    made = contact_sheet(
        data_of(pictures, np.array([0, 0, 0, 1])), {"mean": (0.5,), "std": (0.25,)}
    )
    assert made is not None
    sheet = np.asarray(Image.open(io.BytesIO(made)))
    step = 128 + 4
    assert [int(sheet[60, 60 + place * step, 0]) for place in range(4)] == [10, 200, 20, 30]


def test_without_numbers_to_undo_the_values_are_stretched() -> None:
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[1] = 100
    made = contact_sheet(data_of(pictures, np.array([0, 1])), {})
    assert made is not None
    assert np.asarray(Image.open(io.BytesIO(made)))[60, 60 + 132].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["labels", "number"])
def test_every_kind_of_task_has_a_sheet(kind: str) -> None:
    pictures = np.zeros((20, 8, 8, 3), np.uint8)
    labels = np.tile(np.array([[1.0, 0.0]], np.float32), (20, 1))
    assert contact_sheet(data_of(pictures, labels, kind), {}) is not None


def test_rows_of_a_table_are_no_pictures() -> None:
    split = Split(ArrayInputs(np.zeros((3, 5), np.float32)), np.array([0, 1, 0]))
    data = SiteData("north", "task", ("a", "b"), (5,), split, split, split)
    assert contact_sheet(data, {}) is None
