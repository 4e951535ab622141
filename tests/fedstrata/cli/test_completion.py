"""Completion: what a line can go on with, and what bash makes of it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedstrata.cli.completion import BASH, ZSH, main, words
from server_app.compose import compose


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("fedstrata ", ["run", "consortium"], ["--nodes"]),
        ("fedstrata ru", ["run", "runs"], ["check"]),
        ("fedstrata run experiment=", ["experiment=faces", "experiment=har"], ["faces"]),
        ("fedstrata run strategy.ro", ["strategy.rounds="], ["strategy.fraction="]),
        ("fedstrata run strategy.coding.common=", ["strategy.coding.common=int8"], []),
        ("fedstrata run +model@models.big=resnet1", ["+model@models.big=resnet18"], []),
        ("fedstrata run models=ht", ["models=htfe4"], ["models=mlp4"]),
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


def shown_by_zsh(folder: Path, typed: str, wanted: bytes) -> bytes:
    """Return what a terminal shows of zsh, which has read our script, once it is ``wanted``."""
    command = folder / "fedstrata"
    command.write_text(f'#!/bin/sh\n"{sys.executable}" - "$3" <<\'EOF\'\n{STAND_IN}\nEOF\n')
    command.chmod(0o755)
    (folder / ".zshrc").write_text(f"PS1='READY> '\n{ZSH}")
    pid, terminal = pty.fork()
    if pid == 0:  # this process becomes zsh, of which nothing returns
        path = f"{folder}:{os.environ['PATH']}"
        os.execve(
            shutil.which("zsh") or "zsh",
            ["zsh", "-d", "-i"],
            {"TERM": "dumb", "PATH": path, "ZDOTDIR": str(folder), "HOME": str(folder)},
        )
    try:
        shown = read_until(terminal, b"READY> ")
        os.write(terminal, typed.encode())
        return shown + read_until(terminal, wanted)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, wanted: bytes) -> bytes:
    shown = b""
    while wanted not in shown and select.select([terminal], [], [], 30)[0]:
        shown += os.read(terminal, 65_536)
        shown = re.sub(rb".\x08|\a", b"", shown)  # what zsh writes over again, and its bell
    return shown


STAND_IN = """
import sys
lines = {"fedstrata pred": "predict", "fedstrata run experiment=h": "experiment=har",
         "fedstrata run experi": "experiment="}
print(lines.get(sys.argv[1], ""))
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed here")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("fedstrata pred\tX", b"predict X"),
        ("echo 1; fedstrata run experi\tX", b"run experiment=X"),
        ("fedstrata run experiment=h\tX", b"experiment=har X"),
        ("fedstrata run data-root=/et\tX", b"data-root=/etc/X"),
    ],
)
def test_zsh_completes_as_it_is_typed(tmp_path: Path, typed: str, wanted: bytes) -> None:
    assert wanted in shown_by_zsh(tmp_path, typed, wanted)
