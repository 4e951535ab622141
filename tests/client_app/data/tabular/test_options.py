"""The options of tables."""

from __future__ import annotations

import pytest

from client_app.data.tabular.options import MOST_CATEGORIES, TabularOptions
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options


@pytest.fixture
def read(options):
    return lambda **changes: read_options(
        TabularOptions, options("tabular", **changes) | {}, "data"
    )


@pytest.fixture
def options(options):
    def without_common(name, **changes):
        chosen = options(name, **changes)
        del chosen["labels_per_class"], chosen["seed"]
        return chosen

    return without_common


def test_categories_are_words(read) -> None:
    settings = read(categories={"cp": [1, 2.5, "x"], "thal": "agreed"})
    assert settings.categories_of("cp") == ("1", "2.5", "x")
    assert settings.categories_of("thal") is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1], "two names or more"),
        ({"a": 1}, "two names or more"),
        (3, "two names or more"),
        (list(range(MOST_CATEGORIES + 1)), f"at most {MOST_CATEGORIES}"),
    ],
)
def test_categories_that_are_none_are_refused(read, given, said) -> None:
    with pytest.raises(UserError, match=f"data.categories.cp: .*{said}"):
        read(categories={"cp": given})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": []}, "data.features: name columns"),
        ({"features": ["a", "a"]}, "data.features: name columns, each once"),
        ({"largest_mb": 0}, "data.largest_mb: at least 1"),
        ({"test_fraction": 1.5}, "data.test_fraction"),
    ],
)
def test_values_out_of_range_are_refused(read, changes, said) -> None:
    with pytest.raises(UserError, match=said):
        read(**changes)
