"""docs/configuration.md says what conf/ says: every key, its default and its meaning."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Return docs/generate_configuration.py as a module; docs/ is no package."""
    path = ROOT / "docs" / "generate_configuration.py"
    spec = importlib.util.spec_from_file_location("generate_configuration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a copy of conf/ that a test may change."""
    return Path(shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("*.py*")))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def leaves(value: object, above: str = "") -> list[str]:
    """Return the dotted names of all values below ``value``; an empty mapping is one."""
    if not isinstance(value, dict) or not value:
        return [above]
    return [
        name
        for key, inner in value.items()
        for name in leaves(inner, f"{above}.{key}" if above else str(key))
    ]


def test_the_page_is_up_to_date(generator: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["--check"]) == 0, capsys.readouterr().err


def test_every_key_of_every_file_is_found(generator: ModuleType) -> None:
    for path in CONF.rglob("*.yaml"):
        loaded = yaml.safe_load(path.read_text())
        loaded.pop("defaults", None)
        read = generator.read_choice(path.read_text(), str(path))
        found = {key.name: key.default for key in read.keys if key.default}
        assert set(found) == set(leaves(loaded)) - {""}, path  # a mix has no keys of its own
        for name, written in found.items():
            value = loaded
            for part in name.split("."):
                value = value[part]
            assert yaml.safe_load(written) == value, f"{path}: {name}"


def test_a_changed_default_makes_the_page_stale(
    generator: ModuleType, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(conf / "strategy" / "default.yaml", "rounds: 8", "rounds: 9")
    assert generator.main(["--check", "--conf", str(conf)]) == 1
    assert "is stale: run `python docs/generate_configuration.py`" in capsys.readouterr().err


def test_a_key_without_a_comment_is_named(
    generator: ModuleType, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(
        conf / "train" / "default.yaml", "batch_size: 32 # examples per batch", "batch_size: 32"
    )
    page = tmp_path / "page.md"
    assert generator.main(["--conf", str(conf), "--page", str(page)]) == 1
    assert "conf/train/default.yaml: batch_size" in capsys.readouterr().err
    assert not page.exists()


def test_a_new_choice_and_a_new_key_come_onto_the_page(
    generator: ModuleType, conf: Path, tmp_path: Path
) -> None:
    (conf / "method" / "fednew.yaml").write_text(
        "# A new method.\n"
        "# Choose: flwr run . --stream -c 'overrides=\"method=fednew\"'\n"
        "name: fednew\nweight: 0.5 # of the new term,\n  # at every site\n"
    )
    page = tmp_path / "page.md"
    assert generator.main(["--conf", str(conf), "--page", str(page)]) == 0
    text = page.read_text()
    assert "### method: fednew\n\nA new method.\n\n```bash\nflwr run . --stream" in text
    assert "| `method.weight` | `0.5` | of the new term, at every site |" in text
    assert "`method.name`" not in text


def test_a_folder_that_nobody_describes_is_named(
    generator: ModuleType, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (conf / "privacy").mkdir()
    (conf / "privacy" / "none.yaml").write_text("# None.\nname: none\n")
    assert generator.main(["--check", "--conf", str(conf)]) == 1
    assert "conf/privacy" in capsys.readouterr().err
