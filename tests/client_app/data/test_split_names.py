"""Splits are recognized by the names that data sets give them, and by no others."""

from __future__ import annotations

import pytest

from client_app.data.split_names import split_named


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Training", "training_set", "train-images", "TRAIN ", "TrainSet"]),
        ("validation", ["val", "Valid", "validation", "dev", "val_set", "Validation Data"]),
        ("test", ["test", "Testing", "test_set", "testset", "Test.images"]),
        (None, ["", "cat", "set", "train test", "test_patients", "latest", "training2", "1"]),
    ],
)
def test_a_name_in_any_form_is_its_split(split, names) -> None:
    assert {name: split_named(name) for name in names} == dict.fromkeys(names, split)


def test_names_of_the_users_own_come_first() -> None:
    own = {"Holdout": "test", "test": "validation"}
    assert split_named("holdout ", own) == "test"
    assert split_named("test", own) == "validation"
    assert split_named("train", own) == "train"
