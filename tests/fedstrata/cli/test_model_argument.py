"""A model is found by its path, by run and site, or by run and task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstrata.cli.model_argument import STATES, find_model
from fedstrata.support.errors import UserError


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_path_is_a_model(tmp_path: Path) -> None:
    path = touched(tmp_path / "m.safetensors")
    assert find_model(str(path)) == path
    with pytest.raises(UserError, match="no such file"):
        find_model(str(tmp_path / "other.safetensors"))


def test_a_site_uses_its_tuned_model_before_its_best_and_its_last(tmp_path: Path) -> None:
    site = tmp_path / "march" / "sites" / "north"
    for state in reversed(STATES):
        path = touched(site / STATES[state])
        assert find_model("march:north", [tmp_path]) == path
        assert find_model(f"march:north:{state}", [tmp_path]) == path
    assert find_model("march:north", [tmp_path]) == site / "deployed.safetensors"


def test_another_model_is_not_called_the_best(tmp_path: Path) -> None:
    last = touched(tmp_path / "march" / "sites" / "north" / STATES["last"])
    with pytest.raises(UserError, match="has no model best"):
        find_model("march:north:best", [tmp_path])
    assert find_model("march:north", [tmp_path]) == last


def test_a_run_that_a_person_named_is_found_by_that_name(tmp_path: Path) -> None:
    path = touched(tmp_path / "march-0a1b2c3d" / "sites" / "north" / "deployed.safetensors")
    assert find_model("march:north", [tmp_path]) == path  # at a hospital
    tuned = touched(tmp_path / "march-0a1b2c3d-tuned/sites/north/deployed.safetensors")
    assert find_model("march-tuned:north", [tmp_path]) == tuned
    other = touched(tmp_path / "march-ffffffff" / "sites" / "north" / "deployed.safetensors")
    touched(tmp_path / "march" / "run.json").write_text(
        json.dumps({"federation": "march-ffffffff"})
    )
    assert find_model("march:north", [tmp_path]) == other


def test_a_simulation_is_found_once(tmp_path: Path) -> None:
    path = touched(tmp_path / "march" / "sites" / "north" / "deployed.safetensors")
    touched(tmp_path / "march" / "run.json").write_text(json.dumps({"federation": "march"}))
    assert find_model("march:north", [tmp_path]) == path


def test_two_runs_of_a_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    path = touched(tmp_path / "march-0a1b2c3d" / "sites" / "north" / "deployed.safetensors")
    touched(tmp_path / "march-baseline" / "sites" / "north" / "deployed.safetensors")
    assert find_model("march:north", [tmp_path]) == path
    other = touched(tmp_path / "march-ffffffff" / "sites" / "north" / "deployed.safetensors")
    with pytest.raises(UserError, match=r"several runs .*write march-ffffffff:north"):
        find_model("march:north", [tmp_path])
    assert find_model("march-ffffffff:north", [tmp_path]) == other


def test_the_home_is_searched_where_no_folder_is_given(own_home: Path) -> None:
    path = touched(own_home / "sites" / "march" / "sites" / "north" / "models/best.safetensors")
    assert find_model("march:north") == path


def test_a_public_model_is_found_by_its_task(tmp_path: Path) -> None:
    path = touched(tmp_path / "march" / "models" / "age.safetensors")
    assert find_model("march::age", [tmp_path]) == path
    assert find_model("march::", [tmp_path]) == path  # the only one
    with pytest.raises(UserError, match="no public model of this task"):
        find_model("march::sex", [tmp_path])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("march:north:worst", "write deployed, best, last"),
        ("april:north", "no run of this name"),
        ("march:south", "there is 'north'"),
        ("march:north:last", "no model last"),
        ("../march:north", "no such file"),
        ("a:b:c:d", "no such file"),
        ("a" * 300, "no such file"),
        ("~nobody-of-this-name/m", "no such file"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, named: str, said: str) -> None:
    touched(tmp_path / "march" / "sites" / "north" / "deployed.safetensors")
    with pytest.raises(UserError) as error:
        find_model(named, [tmp_path])
    assert said in str(error.value)
