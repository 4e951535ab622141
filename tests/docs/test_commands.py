"""The commands of the documents work: read from the page, so that a broken page breaks a test."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args
from packaging.requirements import Requirement

from benchmarks.flower.processes import Processes
from fedstrata.cli import run as run_command
from fedstrata.cli.site import SUBCOMMANDS
from server_app.compose import compose, expand, read_run_config
from tests.docs.commands import FOR_NEWCOMERS, Command, commands_of
from tests.docs.pages import PAGES, README, ROOT
from tests.loopback import simulate

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
# A quick run of the same command: fewer, smaller and easier things to do, nothing else.
QUICK = (
    "strategy.rounds=1 baselines.alone=false train.epochs=1 data.size=32 "
    "data.train=8 data.validation=4 data.test=8 data.identities=6 "
    "data.public.examples=32 data.public.identities=8"
)


def once(commands: Iterable[Command]) -> list[Command]:
    """Return each command once, where it stands first."""
    found: dict[tuple[str, ...], Command] = {}
    for command in commands:
        found.setdefault(command.words, command)
    return list(found.values())


ALL = [c for page in dict.fromkeys([*FOR_NEWCOMERS, *PAGES]) for c in commands_of(page)]
NEWCOMERS = once(command for command in ALL if command.page in FOR_NEWCOMERS)
RUNS = once(command for command in ALL if command.words[:2] == ("flwr", "run"))
KEPT_RUNNING = once(
    c
    for c in ALL
    if c.words[:3] == ("fedstrata", "consortium", "run") or c.words[:2] == ("docker/testbed", "run")
)
OURS = once(command for command in ALL if command.words[0] == "fedstrata")
BENCHMARKS = once(command for command in ALL if command.words[:2] == ("python", "-m"))


def run_config_of(command: Command) -> dict[str, Any]:
    """Return the app's run config as Flower makes it of the command's ``-c``."""
    given = parse_config_args(command.option("-c", "--run-config"))
    return fuse_dicts(flatten_dict(PROJECT["tool"]["flwr"]["app"]["config"]), given)


def check_flwr(command: Command) -> None:
    """Check that every run that the command asks for has a valid configuration."""
    assert command.words[:3] == ("flwr", "run", ".")
    wanted = read_run_config(run_config_of(command))
    for overrides in expand(wanted.overrides):
        compose(wanted.experiment, overrides)
    federation = parse_config_args(command.option("--federation-config"))
    assert set(federation) <= {"num-supernodes"}
    left = {word for word in command.words[3:] if word.startswith("-")}
    assert left <= {"--stream", "-c", "--run-config", "--federation-config"}


def check_pip(command: Command) -> None:
    """Check that what is installed exists: the extras, and the file of constraints."""
    assert command.words[:2] == ("pip", "install")
    for name in command.option("-e"):
        extras = Requirement(f"fedstrata{name.removeprefix('.')}").extras
        assert name.startswith(".")
        assert extras <= set(PROJECT["project"]["optional-dependencies"])
    assert all((ROOT / name).is_file() for name in command.option("-c"))


def check_pytest(command: Command) -> None:
    """Check that a marker that is asked for exists."""
    markers = {m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    asked = re.findall(r"\w+", " ".join(command.option("-m")))
    assert set(asked) - {"not", "and", "or"} <= markers


def check_export(command: Command) -> None:
    """Check that the variable is one that Flower or gRPC reads, or ours."""
    name = command.words[1].partition("=")[0]
    if name != "no_proxy":
        from flwr.cli import constant

        assert name in Path(constant.__file__).read_text()


def check_testbed(command: Command) -> None:
    """Check that the script knows its subcommand; tests/containers runs it."""
    script = (ROOT / "docker" / "testbed").read_text()
    assert re.search(rf"^\s*{command.words[1]}\b.*\)", script, re.MULTILINE)


def check_fedstrata(command: Command) -> None:
    """Check that every run that `fedstrata run` is asked for has a valid configuration."""
    if command.words[1] != "run":  # its options are looked at below
        return
    asked = run_command.parser().parse_intermixed_args(command.words[2:])
    if asked.resume is None:
        assert run_command.nodes_of(run_command.read_wanted(asked))


def check_module(command: Command) -> None:
    """Check that there is a module of ours of that name."""
    assert command.words[1] == "-m"
    assert find_spec(command.words[2]) is not None


CHECKS = {
    "fedstrata": check_fedstrata,
    "python": check_module,
    "pip": check_pip,
    "pytest": check_pytest,
    "export": check_export,
    "docker/testbed": check_testbed,
}


@pytest.mark.parametrize("command", [c for c in NEWCOMERS if c.words[0] != "flwr"], ids=str)
def test_a_newcomers_command_is_valid(command: Command) -> None:
    assert command.words[0] in CHECKS, f"nothing checks commands of {command.words[0]}"
    CHECKS[command.words[0]](command)


@pytest.mark.parametrize("command", RUNS, ids=str)
def test_a_run_of_any_page_composes(command: Command) -> None:
    check_flwr(command)


@pytest.mark.parametrize("command", [c for c in OURS if c.words[1] == "run"], ids=str)
def test_a_run_of_our_own_command_composes(command: Command) -> None:
    check_fedstrata(command)


@pytest.mark.parametrize("command", KEPT_RUNNING, ids=str)
def test_a_run_that_comes_back_composes(command: Command) -> None:
    given = dict(pair.split("=", 1) for pair in command.option("-c"))
    wanted = read_run_config(fuse_dicts(PROJECT["tool"]["flwr"]["app"]["config"], given))
    for overrides in expand(wanted.overrides):
        compose(wanted.experiment, overrides)


def test_the_configuration_page_shows_every_command_of_the_yaml_files() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for path in (ROOT / "conf").rglob("*.yaml"):
        found = re.findall(r"^# (?:Run|Choose|Override|Try): +(.*)$", path.read_text(), re.M)
        assert found, path
        assert not [line for line in found if f"{line}\n" not in page], path


def test_the_yaml_on_the_pages_is_yaml() -> None:
    text = "".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    assert all(yaml.safe_load(block) for block in blocks)
    assert blocks


@pytest.mark.parametrize("command", BENCHMARKS, ids=str)
def test_a_benchmark_of_any_page_has_the_options_that_are_shown(command: Command) -> None:
    found = find_spec(command.words[2])
    assert found is not None
    assert found.origin is not None
    paths = [Path(found.origin), *(ROOT / "benchmarks").rglob("*.py")]
    sources = [path.read_text() for path in paths]
    for option in (word for word in command.words if word.startswith("--")):
        assert any(f'"{option}"' in source for source in sources), option


DECISIONS = ("show", "allow", "deny")  # of `fedstrata site approvals`


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_of_ours_has_the_options_that_are_shown(command: Command) -> None:
    script = PROJECT["project"]["scripts"].get("fedstrata")
    if script is None:
        pytest.skip("this checkout has no command fedstrata")
    module, _, function = script.partition(":")
    inner = [*SUBCOMMANDS, *DECISIONS] if command.words[1] == "site" else command.words[2:3]
    inner = inner if command.words[1] in ("site", "consortium") else []
    named = [word for word in command.words[2:] if word in inner]
    code = f"import sys; from {module} import {function} as main; sys.exit(main())"
    helped = subprocess.run(
        [sys.executable, "-c", code, command.words[1], *named, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shown = [word for word in command.words[2:] if word.startswith("--")]
    if named[:1] == ["approvals"]:  # it stands before the decision
        shown.remove("--settings")
    for option in shown:
        assert option in helped.stdout


def test_the_pages_show_commands_of_each_kind() -> None:
    assert README.read_text().index("fedstrata run") < README.read_text().index("pytest")
    shown = {command.words[0] for command in NEWCOMERS}
    assert shown >= {"pip", "fedstrata", "flwr", "pytest", "export"}
    assert any(command.needs for command in RUNS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where all runs of this module keep pre-trained weights: runs of one seed share them."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.system
@pytest.mark.parametrize("command", [c for c in RUNS if c in NEWCOMERS and not c.needs], ids=str)
def test_a_newcomers_run_trains(
    command: Command, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSTRATA_HOME", str(home))
    wanted = read_run_config(run_config_of(command))
    for overrides in expand(wanted.overrides):
        results, _ = simulate(tmp_path, wanted.experiment, [*overrides, *QUICK.split()], sites=2)
        assert set(results["final"]["sites"]) == {"site-00", "site-01"}


@pytest.mark.system
def test_the_first_command_of_the_readme_runs(tmp_path: Path) -> None:
    first = next(command for command in RUNS if command.page == README)
    output = tmp_path / "output"
    with Processes(tmp_path) as processes:
        pairs = f'output-dir="{output}" overrides="{QUICK}"'
        started = processes.start("readme", [*first.words, "-c", pairs])
        log = processes.finish(started, seconds=480)
        (results,) = output.glob("*/results.json")
        assert f"results: {results}" in log, processes.logs()
