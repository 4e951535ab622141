"""Completion: what a line can go on with, and what bash makes of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fedstrata.cli.completion import BASH, main, words
from server_app.compose import compose


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("fedstrata ", ["run", "consortium"], ["--nodes"]),
        ("fedstrata ru", ["run", "runs"], ["check"]),
        ("fedstrata run experiment=", ["experiment=faces", "experiment=har"], ["faces"]),
        ("fedstrata run strategy.ro", ["strategy.rounds="], ["strategy.fraction="]),
        ("fedstrata run strategy.coding.common=", ["strategy.coding.common=int8"], []),
        ("fedstrata check baselines.alone=t", ["baselines.alone=true"], ["baselines.alone=false"]),
        ("fedstrata run --no", ["--nodes", "--node-cpus"], ["--resume"]),
        ("fedstrata run aggregator@strategy.aggregators.common=f", [], ["fedavg"]),
        ("fedstrata site run=", [], ["run=true"]),
        ("fedstrata compare --t", ["--target"], ["--apart"]),
    ],
)
def test_a_line_goes_on_with(line: str, some: list[str], none: list[str]) -> None:
    found = words(line)
    assert set(some) <= set(found)
    assert not set(none) & set(found)


def test_the_runs_are_offered_to_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    (tmp_path / "outputs" / "march").mkdir(parents=True)
    (tmp_path / "outputs" / "march" / "run.json").touch()
    (tmp_path / "outputs" / "sweep").mkdir()
    (tmp_path / "outputs" / "sweep" / "sweep.json").touch()
    assert words("fedstrata run --resume ") == ["latest", "march", "sweep"]
    assert words("fedstrata compare m") == ["march"]


def test_each_choice_that_is_offered_exists() -> None:
    for choice in words("fedstrata run method="):
        compose("faces", [choice])


def test_a_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zsh"])
    assert "compdef _fedstrata fedstrata" in capsys.readouterr().out
    main(["words", "fedstrata run model=mlp"])
    assert capsys.readouterr().out.split() == ["model=mlp", "model=mlp_bn"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_gets_what_stands_behind_the_equals_sign() -> None:
    code = f"""
fedstrata() {{ echo experiment=faces; echo experiment=files; }}
compopt() {{ :; }}
{BASH}
COMP_LINE="fedstrata run experiment=f" COMP_POINT=26
_fedstrata
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "faces files\n"
