"""A folder of a model is found by its name inside one directory, and nowhere else."""

from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from fedstrata.support.folders import default_models_dir, model_folder


def test_the_default_directory_is_in_the_home(own_home: Path) -> None:
    assert default_models_dir() == own_home / "models"


def test_a_folder_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "bert-1.0_a").mkdir()
    assert model_folder("bert-1.0_a", tmp_path) == tmp_path / "bert-1.0_a"


@pytest.mark.parametrize("name", ["../bert", "a/b", "/bert", ".hidden", "", 3, "a" * 129, "a\n"])
def test_what_is_no_plain_name_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(UserError, match="is not the name of a folder"):
        model_folder(name, tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder 'bert'"):
        model_folder("bert", tmp_path)


@pytest.mark.parametrize("inside", [True, False])
def test_a_link_must_stay_in_the_directory(tmp_path: Path, inside: bool) -> None:
    models, other = tmp_path / "models", tmp_path / ("models" if inside else "elsewhere")
    (models / "bert").mkdir(parents=True)
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text("{}")
    (models / "bert" / "config.json").symlink_to(other / "config.json")
    if inside:
        assert model_folder("bert", models) == models / "bert"
    else:
        with pytest.raises(UserError, match="is a link that leaves"):
            model_folder("bert", models)
