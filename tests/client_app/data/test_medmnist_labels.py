"""What the labels of a MedMNIST file may be."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays_of

from client_app.data.medmnist_labels import kind_of_labels, number_names, read_labels
from client_app.data.task_options import TaskOptions
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError, private

HERE = private("FILE")


def test_one_column_is_a_class_and_several_are_labels() -> None:
    one = read_labels(np.array([[0], [3]]), None, HERE)
    assert one.tolist() == [0, 3]
    assert kind_of_labels(one, None).name == "classes"
    several = read_labels(np.array([[0, 1], [1, np.nan]]), None, HERE)
    assert several.dtype == np.float32
    assert kind_of_labels(several, None).name == "labels"


def test_a_configured_kind_decides() -> None:
    ages = np.array([[61.5], [np.nan]])
    age = TaskOptions("age", ("age",), TaskKind("number"))
    numbers = read_labels(ages, "number", HERE)
    assert numbers.shape == (2, 1)
    assert kind_of_labels(numbers, age) == age.kind
    assert read_labels(np.array([0, 1]), "labels", HERE).shape == (2, 1)
    with warnings.catch_warnings(action="error"), pytest.raises(UserError, match="has inf"):
        read_labels(np.array([1e300]), "number", HERE)
    with pytest.raises(UserError, match="rows of numbers are needed"):
        read_labels(np.zeros((2, 0)), "labels", HERE)
    with pytest.raises(UserError, match="no task of classes"):
        read_labels(np.zeros((2, 2)), "classes", HERE)


def test_each_number_has_a_name() -> None:
    age = TaskOptions("age", ("age",), TaskKind("number"))
    assert number_names(age, 1, HERE) == ("age",)
    with pytest.raises(UserError, match=r"2 numbers per picture, .*data\.tasks\.age\.columns"):
        number_names(age, 2, HERE)


@given(arrays_of.arrays(arrays_of.scalar_dtypes(), arrays_of.array_shapes(max_dims=3, max_side=4)))
def test_any_array_is_read_or_refused(array: np.ndarray) -> None:
    for kind in (None, "classes", "labels", "number"):
        try:
            found = read_labels(array, kind, HERE)
        except UserError:
            continue
        assert len(found) == len(array)
        assert found.dtype in (np.int64, np.float32)
