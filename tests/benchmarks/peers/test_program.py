"""A peer's program gets the run config as options, and nothing of our environment's Python path."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.program import Program


def test_the_command_has_an_option_for_each_key(tmp_path: Path) -> None:
    program = Program(tmp_path, module="benchmarks.peers.plain_loop", python=Path("/env/python"))
    command = program.command(7, {"sites": 7, "lr": 0.5, "data": "/data/sites"})
    assert command[:4] == ["/env/python", "-E", "-m", "benchmarks.peers.plain_loop"]
    assert command[4:] == ["--sites=7", "--lr=0.5", "--data=/data/sites"]
