"""`fedstrata`: one command, which imports what its subcommand needs and no more."""

from __future__ import annotations

import io
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedstrata.cli import main as command_line
from fedstrata.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]


def test_the_help_lists_every_subcommand_and_imports_none() -> None:
    code = (
        "import sys\nfrom fedstrata.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as ended: assert ended.code == 0\n"
        "ours = {name for name in sys.modules if name.partition('.')[0] in "
        "('fedstrata', 'site_guard', 'consortium', 'flwr', 'torch', 'msgspec', 'yaml')}\n"
        "assert ours == {'fedstrata', 'fedstrata.cli', 'fedstrata.cli.main'}, ours\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, text in COMMANDS.items():
        assert f"{name:10}  {text}" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_subcommand_gets_the_rest_of_the_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    module = import_module(f"fedstrata.cli.{name}")
    monkeypatch.setattr(module, "main", seen.append)
    main([name, "--help", "@file", name])
    monkeypatch.setattr(sys, "argv", ["fedstrata", name, "-x"])
    main()
    assert seen == [["--help", "@file", name], ["-x"]]


@pytest.mark.parametrize("name", ["site", "sign", "consortium"])
def test_a_subcommand_calls_itself_what_was_typed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: fedstrata {name} ")


@pytest.mark.parametrize("arguments", [[], ["sites"], ["--settings", "site.yaml"]])
def test_what_is_no_subcommand_is_an_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "fedstrata: error: " in capsys.readouterr().err


def test_it_is_the_projects_one_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"fedstrata": f"{command_line.__name__}:main"}


def test_the_app_bundle_has_the_ground_rooms_and_not_the_command() -> None:
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))) as bundle:
        assert "models/packaged/drawn_faces.json" in bundle.namelist()
        names = {name for name in bundle.namelist() if name.startswith("fedstrata")}
    folders = {name.split("/")[1] for name in names}
    rooms = {"protocol", "runs", "comparison", "support", "drawn_faces"}
    assert folders == {"__init__.py", *rooms}
    for folder in rooms:
        files = {str(path.relative_to(ROOT)) for path in (ROOT / "fedstrata" / folder).glob("*.py")}
        assert files <= names
