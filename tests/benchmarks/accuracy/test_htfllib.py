"""HtFLlib is read by what it prints, and starts without the generators of its FedKTL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import conf
from benchmarks.accuracy import htfllib
from benchmarks.accuracy.htfllib import FinishedHtPeer, HtPeer
from benchmarks.accuracy.pfllib import PeerFailed, Wanted
from tests.helpers.peer_sites import site

# Imports as HtFLlib does, and prints as its FedProto does: no method before round 0 has prototypes.
PROGRAM = """
import sys
from flcore.servers.serverktl_stylegan_xl import FedKTL
from flcore.servers.own import NAME
words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
assert given["-algo"] == NAME and FedKTL is None
for number in range(int(given["-gr"]) + 1):
    print(f"Averaged Test Accuracy: {number / 10:.4f}\\nAveraged Test AUC: 0.5")
    print("-" * 50, 0.5 + number)
"""
WANTED = Wanted("shards", "HtFE-img-2", "fedproto", 0.02, 10, 1, 3, {"weight": 10.0})


@pytest.fixture
def peer(tmp_path: Path) -> HtPeer:
    servers = tmp_path / "HtFLlib" / "system" / "flcore" / "servers"
    servers.mkdir(parents=True)
    (servers.parents[1] / "main.py").write_text(PROGRAM)
    (servers / "own.py").write_text("NAME = 'FedProto'")
    return HtPeer(tmp_path / "HtFLlib")


def test_it_plays_the_same_shards_with_the_same_settings(peer: HtPeer, tmp_path: Path) -> None:
    played = peer.play(WANTED, [site((3, 32, 32))], tmp_path / "work")
    assert played.curve == [0.1, 0.2, 0.3]
    assert played.seconds == 2.5
    text = " ".join(played.command)
    assert text.startswith("-data Cifar10-shards -ncl 10 -m HtFE-img-2 -algo FedProto ")
    assert played.command[-2:] == ["-lam", "10"]
    with pytest.raises(PeerFailed, match="not played"):
        FinishedHtPeer(peer.checkout).play(
            replace(WANTED, rate=1.0), [site((3, 32, 32))], tmp_path / "work"
        )


def test_a_method_whose_small_network_differs_there_is_not_played(
    peer: HtPeer, tmp_path: Path
) -> None:
    with pytest.raises(PeerFailed, match="has no method that is fedkd"):
        peer.play(replace(WANTED, method="fedkd"), [site()], tmp_path)


@pytest.mark.parametrize("method", htfllib.NAMES)
def test_our_hyper_parameters_are_its_options(method: str) -> None:
    options = yaml.safe_load((Path(conf.__file__).parent / "method" / f"{method}.yaml").read_text())
    given = replace(WANTED, method=method, options=options).flags(htfllib.FLAGS)
    assert len(given) == 2 * len(htfllib.FLAGS.get(method, {}))
    assert "0" not in given
