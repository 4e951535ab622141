"""results.json is read as it is written, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.runs.results import read_results
from fedstrata.support.errors import UserError
from tests.helpers.run_results import measured, run_results, typed, write_run


def test_a_run_is_read_by_its_folder_or_its_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    read = read_results(folder)
    assert read == read_results(folder / "results.json")
    assert read.sha256 == hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()
    assert read.option("train.batch_size") == 16
    assert read.option("train.batch_size.of", "none") == "none"


def test_each_kind_has_its_own_measure_and_comparison() -> None:
    results = typed(run_results())
    assert results.final is not None
    sites = results.final.sites
    assert (sites["north"].value, sites["north"].baseline, sites["north"].alone) == (
        0.8125,
        0.625,
        0.55,
    )
    assert sites["north"].pooled == 0.9
    assert sites["east"].gain == 1.25  # years less
    assert sites["west"].pooled is None


def test_the_newest_measures_are_the_last_rounds_where_there_are_no_final_ones() -> None:
    results = typed(run_results(final=None))
    assert results.tasks["grade"].value == 0.375 + 3 / 32


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*results\.json: name the folder of a run"):
        read_results(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no results\.json; it is there after round 1"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": {}},
        {"seed": "7"},
        {"sites": {"a": {"task": 3}}},
        {"rounds": [{"round": -1}]},
        {"rounds": [{"round": 1, "tasks": {"t": measured("t", 0.5, confusion=[[1, 2]])}}]},
        {"rounds": [{"round": 1, "tasks": {"t": {"kind": "poem"}}}]},
        {"rounds": [{"round": 1, "seconds": 1e308}]},
        {"final": {"sites": {"a": {"task": "t", "kind": "number", "mae": -1.7e308}}}},
    ],
)
def test_another_shape_is_an_error_that_names_the_file(tmp_path: Path, wrong: Any) -> None:
    folder = write_run(tmp_path / "run", **wrong)
    with pytest.raises(UserError, match=r"run/results\.json is no results\.json of a run: "):
        read_results(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25)
@given(key=st.sampled_from(sorted(run_results())), value=JSON)
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    path = tmp_path_factory.mktemp("run") / "results.json"
    path.write_text(json.dumps({**run_results(1), key: value}))
    with suppress(UserError):  # and no other error
        read_results(path)
