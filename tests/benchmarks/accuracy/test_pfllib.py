"""PFLlib is a process of its own: it is given the same shards, and read by what it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import conf
from benchmarks.accuracy import pfllib
from benchmarks.accuracy.pfllib import (
    FinishedPeer,
    Peer,
    PeerFailed,
    Wanted,
    dataset_name,
    read_output,
)
from tests.helpers.peer_sites import site

# Reads its shards as PFLlib does, and prints as PFLlib does: round 0 is the start.
PROGRAM = """
import sys
import numpy as np
words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
for client in range(int(given["-nc"])):
    for side, many in (("train", 6), ("test", 2)):
        path = f"../dataset/{given['-data']}/{side}/{client}.npz"
        data = np.load(path, allow_pickle=True)["data"].tolist()
        assert data["x"].shape == (many, 1, 28, 28) and data["x"].dtype == np.float32
        assert sorted(data["y"].tolist()) == [0, 1, 2, 3, 4, 5][:many]
        assert many == 2 or data["y"].tolist() != [0, 1, 2, 3, 4, 5]  # in an order of its own
open("calls", "a").write(given["-algo"] + " ")
for number in range(int(given["-gr"]) + 1):
    if given["-algo"] == "Ditto":  # of the averaged models, before that of the personal ones
        print("Averaged Test Accuracy: 0.0101")
    print(f"Averaged Train Loss: 1.0\\nAveraged Test Accuracy: {number / 10:.4f}")
    if given["-lr"] == "7" and number == 2:
        sys.exit(3)
    print("-" * 25, "time cost", "-" * 25, 0.5 + number)
"""
WANTED = Wanted("shards", "CNN", "fedprox", 0.02, 10, 1, 3, {"name": "fedprox", "mu": 0.5})


def make_options(method: str) -> dict[str, object]:
    path = Path(conf.__file__).parent / "method" / f"{method}.yaml"
    return dict(yaml.safe_load(path.read_text()))


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    (tmp_path / "PFLlib" / "system").mkdir(parents=True)
    (tmp_path / "PFLlib" / "system" / "main.py").write_text(PROGRAM)
    return Peer(tmp_path / "PFLlib")


def test_it_plays_the_same_shards_with_the_same_settings(peer: Peer, tmp_path: Path) -> None:
    played = peer.play(WANTED, [site(), site()], tmp_path / "work")
    assert played.curve == [0.1, 0.2, 0.3]
    assert played.seconds == 2.5
    text = " ".join(played.command)
    assert "-data MNIST-shards -ncl 10 -m CNN -algo FedProx -gr 3 -lbs 10 -lr 0.02 -ls 1" in text
    assert text.endswith("-nc 2 -dev cpu -mu 0.5")
    assert [path.name for path in (tmp_path / "PFLlib").rglob("*")] == ["system", "main.py"]


def test_a_finished_run_is_kept(peer: Peer, tmp_path: Path) -> None:
    for wanted in (WANTED, WANTED, replace(WANTED, rate=0.1)):
        peer.play(wanted, [site()], tmp_path / "work")
    calls = (tmp_path / "work" / "shards" / "system" / "calls").read_text().split()
    assert calls == ["FedProx"] * 2


def test_the_accuracy_is_that_of_the_models_that_predict(peer: Peer, tmp_path: Path) -> None:
    ditto = replace(WANTED, method="ditto", options=make_options("ditto"))
    assert peer.play(ditto, [site()], tmp_path / "work").curve == [0.1, 0.2, 0.3]


def test_only_finished_runs_have_figures_where_none_is_to_be_played(
    peer: Peer, tmp_path: Path
) -> None:
    played = peer.play(WANTED, [site()], tmp_path / "work")
    finished = FinishedPeer(peer.checkout)
    assert finished.play(WANTED, [site()], tmp_path / "work") == played
    with pytest.raises(PeerFailed, match="not played"):
        finished.play(replace(WANTED, rate=0.1), [site()], tmp_path / "work")


def test_a_run_that_ends_early_is_no_result(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"ended with 3 after 1 of 3 rounds; see .*fedprox\.log"):
        peer.play(replace(WANTED, rate=7), [site()], tmp_path / "work")
    with pytest.raises(PeerFailed, match="has no method that is layers"):
        peer.play(replace(WANTED, method="layers"), [site()], tmp_path / "work")


@pytest.mark.parametrize("method", pfllib.NAMES)
def test_our_hyper_parameters_are_its_options(method: str) -> None:
    options = make_options(method)
    wanted = replace(WANTED, method=method, options=options)
    given = wanted.flags()
    assert len(given) == 2 * len(pfllib.FLAGS.get(method, {}))
    assert "0" not in given  # which would switch the method off


def test_numbers_that_it_counts_otherwise_are_converted() -> None:
    wanted = replace(WANTED, method="fedala", options=make_options("fedala"))
    assert wanted.flags() == ["-et", "1", "-s", "80", "-p", "2"]


def test_inputs_without_a_network_there_are_refused() -> None:
    assert dataset_name("x", site((3, 32, 32))) == "Cifar10-x"
    with pytest.raises(PeerFailed, match=r"no network for inputs of \(561,\)"):
        dataset_name("x", site((561,)))


def test_other_lines_are_not_read() -> None:
    for words in (f"{'-' * 50} 1.5", f"{'-' * 25} time cost {'-' * 25} 1.5"):
        assert read_output(f"Averaged Test Accuracy: 0.5\n{words}\n") == ([0.5], [1.5])
    assert read_output("Averaged Test AUC: 0.9\nStd Test Accuracy: 0.1\ntime cost 3\n") == ([], [])
