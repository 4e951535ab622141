"""Where a peer is, is found out before anything runs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytest

from benchmarks.flower.processes import REPOSITORY
from benchmarks.peers.environment import PEERS, Peer, PeerMissing, add_peers, find_peers


def parsed(*words: str) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser()
    add_peers(parser, ("plain", "pfl"), ("plain",))
    return parser, parser.parse_args(words)


def test_the_versions_are_those_of_the_given_python() -> None:
    found = Peer("numpy", "--numpy-python", ("torch",)).versions(Path(sys.executable))
    import numpy
    import torch

    assert found == {"numpy": numpy.__version__, "torch": torch.__version__.partition("+")[0]}


def test_a_python_without_the_library_is_named_with_the_reason() -> None:
    with pytest.raises(PeerMissing, match="No module named 'no_such_library'"):
        Peer("no_such_library", "--no-python").versions(Path(sys.executable))
    with pytest.raises(PeerMissing, match=r"/nowhere/python cannot import it .*No such file"):
        Peer("numpy", "--numpy-python").versions(Path("/nowhere/python"))


def test_the_plain_loop_needs_no_environment() -> None:
    parser, options = parsed()
    assert options.peers == ["plain"]
    assert find_peers(parser, options) == {}


def test_a_python_is_where_the_command_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def versions(_: Peer, python: Path) -> dict[str, str]:
        asked.append(python)
        return {}

    monkeypatch.setattr(Peer, "versions", versions)
    parser, options = parsed("--peers", "pfl", "--pfl-python", "/env/bin/python")
    assert find_peers(parser, options)["pfl"].python == Path("/env/bin/python")
    find_peers(*parsed("--peers", "pfl"))
    assert asked == [Path("/env/bin/python"), Path(sys.executable)]


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_the_requirements_of_each_peer_pin_it_and_say_how_they_are_installed(peer: Peer) -> None:
    text = (REPOSITORY / "benchmarks" / f"requirements-{peer.name}.txt").read_text()
    assert re.search(rf"^{peer.name}==[0-9.]+$", text, re.MULTILINE)
    for line in peer.lines.splitlines():
        assert f"#   {line.strip()}" in text
