"""Checkpoints every few rounds: a run that is killed between two ends with the same bits."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from client_app.round import PreparedRound
from client_app.store import DiskStore
from fedstrata.protocol import kinds
from fedstrata.support.errors import UserError
from models.training.loop import Diverged
from server_app import run as run_module
from server_app.checkpoints import again
from tests.helpers.runs import GROUPS, SMALL, Crash, same, states, without_times
from tests.loopback import LoopbackGrid, Tamper, simulate

ROUNDS = 7
CHOSEN = [
    *SMALL,
    *GROUPS,
    f"strategy.rounds={ROUNDS}",
    "strategy.fraction=0.5",
    "train.optimizer.momentum=0.9",
    "cohort.batched=false",
]
PERSONAL = ["method=ditto", "groups.personal=[head.out, 'type:BatchNorm2d']"]
CODED = [
    "strategy.coding.common=int8",
    "strategy.coding.task=topk",
    "strategy.coding_down.common=int8",
    "aggregator@strategy.aggregators.common=fedadam",
]
WAYS = {"personal": PERSONAL, "coded": CODED}


def dies_in(*rounds: int) -> Tamper:
    """Return what ends the server when the second site answers in each of these rounds, once."""
    left = [str(number) for number in rounds for _ in range(2)]

    def tamper(message: Message, reply: Message) -> Message:
        asked = message.metadata
        if asked.message_type == kinds.TRAIN and left and asked.group_id == left[0]:
            left.pop(0)
            if len(left) % 2 == 0:
                raise Crash
        return reply

    return tamper


def play(folder: Path, *chosen: str, tamper: Tamper | None = None, **more: Any) -> dict[str, Any]:
    """Play a run of four sites, or go on with one."""
    nodes = {100 + i: {"partition-id": i, "num-partitions": 4} for i in range(4)}
    grid = LoopbackGrid(nodes, {"output-dir": str(folder)})
    if tamper is not None:
        grid.tamper = tamper
    return simulate(folder, "faces", [*CHOSEN, *chosen], grid=grid, **more)[0]


def tensors(folder: Path, results: dict[str, Any]) -> dict[str, Tensor]:
    """Return what the server has learned and what each site keeps of its last round."""
    found = dict(states(folder, results["run"]))
    for site in results["sites"]:
        store = DiskStore(folder, results["federation"], site)
        kept = store.before(ROUNDS + 1)
        found |= {f"{site}/{name}": each for name, each in kept.flat().items()} if kept else {}
        last = store.rounds()[-1] if store.rounds() else 0
        feedback = store.error_feedback(last, [n for n in found if n.startswith("body")])
        found |= {f"{site}/feedback/{name}": each for name, each in feedback.items()}
    return found


def without_bytes(results: dict[str, Any]) -> Any:
    """Return results without times, and without the bytes to sites: a new server sends layers whole."""
    plain = without_times(results)
    for record in plain["rounds"]:
        del record["bytes_down"]
    return plain


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a crash of the server go unnoticed by it, as a SIGKILL does."""
    monkeypatch.setattr(run_module, "saved_where_it_ends", lambda *_: nullcontext())


@pytest.mark.usefixtures("killed")
@pytest.mark.parametrize(
    ("way", "rounds"),
    [
        ("personal", (5, 6)),
        pytest.param("personal", (2, 3, 4, 7), marks=pytest.mark.long),
        pytest.param("coded", (2, 3, 4, 5, 6, 7), marks=pytest.mark.long),
    ],
)
def test_killed_in_any_round_and_resumed_a_run_ends_with_the_same_bits(
    way: str, rounds: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    each = play(tmp_path / "each", *WAYS[way])
    expected = tensors(tmp_path / "each", each)
    every = [*WAYS[way], "strategy.checkpoint_every=3"]
    whole = play(tmp_path / "whole", *every)
    assert same(expected, tensors(tmp_path / "whole", whole))
    assert any(name.startswith("site-") for name in expected)
    for number in rounds:
        folder = tmp_path / f"cut-{number}"
        with pytest.raises(Crash):
            play(folder, *every, tamper=dies_in(number))
        caplog.clear()
        resumed = play(folder, *every, resume="latest")
        saved, complete = (number - 1) // 3 * 3, number - 1
        where = f"after round {saved}" if saved else "from the start"
        line = f"resuming {where}{again(saved + 1, complete)}"
        assert (line in caplog.messages) == (complete > 0), caplog.messages
        assert same(expected, tensors(folder, resumed)), number
        assert without_bytes(resumed) == without_bytes(whole), number
        assert not list(folder.glob("**/set-aside"))


@pytest.mark.long
@pytest.mark.usefixtures("killed")
def test_killed_again_and_again_before_a_checkpoint_the_bits_are_the_same(tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", *PERSONAL)
    every = [*PERSONAL, "strategy.checkpoint_every=3"]
    with pytest.raises(Crash):
        play(tmp_path / "cut", *every, tamper=dies_in(6))
    for _ in range(14):  # more often than a site would set rounds aside
        with pytest.raises(Crash):
            play(tmp_path / "cut", *every, tamper=dies_in(5), resume="latest")
    resumed = play(tmp_path / "cut", *every, resume="latest")
    assert same(tensors(tmp_path / "whole", whole), tensors(tmp_path / "cut", resumed))
    assert not list((tmp_path / "cut").glob("**/set-aside"))


@pytest.mark.usefixtures("killed")
def test_from_the_checkpoint_before_a_damaged_one_the_bits_are_the_same(tmp_path: Path) -> None:
    chosen = [*PERSONAL, *CODED]
    whole = play(tmp_path / "whole", *chosen)
    every = [*chosen, "strategy.checkpoint_every=2"]
    with pytest.raises(Crash):
        play(tmp_path / "cut", *every, tamper=dies_in(ROUNDS))
    (newest,) = (tmp_path / "cut").glob("*/checkpoints/round-000006/round.json")
    newest.write_text("{}")
    resumed = play(tmp_path / "cut", *every, resume="latest")
    assert same(tensors(tmp_path / "whole", whole), tensors(tmp_path / "cut", resumed))


def test_what_ends_a_run_leaves_a_checkpoint_of_its_last_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    every = [*PERSONAL, "strategy.checkpoint_every=3"]
    whole = play(tmp_path / "whole", *PERSONAL)
    with pytest.raises(Crash):
        play(tmp_path / "cut", *every, tamper=dies_in(6))
    (results,) = (tmp_path / "cut").glob("*/results.json")
    assert len(json.loads(results.read_text())["rounds"]) == 5
    resumed = play(tmp_path / "cut", *every, resume="latest")
    assert "resuming after round 5" in caplog.messages
    assert same(tensors(tmp_path / "whole", whole), tensors(tmp_path / "cut", resumed))


def test_checkpoints_and_results_are_written_every_so_many_rounds_and_at_the_end(
    tmp_path: Path,
) -> None:
    seen: list[tuple[int, list[str], int]] = []

    def look(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN:
            folders = sorted(path.name for path in tmp_path.glob("*/checkpoints/round-*"))
            (rounds,) = [
                len(json.loads(path.read_text())["rounds"])
                for path in tmp_path.glob("*/results.json")
            ] or [0]
            seen.append((int(message.metadata.group_id), [each[-1] for each in folders], rounds))
        return reply

    results = play(tmp_path, *PERSONAL, "strategy.checkpoint_every=3", tamper=look)
    by_round = {number: (folders, rounds) for number, folders, rounds in seen}
    assert by_round[3] == ([], 0)
    assert by_round[4] == by_round[6] == (["3"], 3)
    assert by_round[7] == (["3", "6"], 6)
    assert results["best"]["round"] in (3, 6, 7)
    last = tmp_path / results["run"] / "checkpoints"
    assert [path.name[-1] for path in sorted(last.glob("round-*"))] == ["3", "6", "7"]


def test_what_a_site_keeps_is_bounded(tmp_path: Path) -> None:
    chosen = [*PERSONAL, "strategy.rounds=24", "strategy.checkpoint_every=5", "strategy.fraction=1"]
    results = play(tmp_path, *chosen)
    for site in results["sites"]:
        kept = DiskStore(tmp_path, results["federation"], site).rounds()
        assert set(kept) >= {10, 15, 20, 22, 23, 24}
        assert len(kept) <= 3 + 3 + 2  # the last rounds, the checkpoints, the best state's


def test_a_run_that_cannot_save_its_last_rounds_ends_with_its_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def tamper(message: Message, reply: Message) -> Message:
        asked = message.metadata
        if asked.message_type == kinds.TRAIN and asked.group_id == "3":
            monkeypatch.setattr("server_app.run_folder.RunFolder.save", full)
            raise UserError("every site is away")
        return reply

    with pytest.raises(UserError, match="every site is away"):
        play(tmp_path, "strategy.checkpoint_every=5", tamper=tamper)
    assert any(line.startswith("the last rounds are not saved: ") for line in caplog.messages)


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [(4, 3, ""), (4, 4, "; round 4 is played again"), (4, 5, "; rounds 4 to 5 are played again")],
)
def test_rounds_that_are_played_again_are_named(first: int, last: int, words: str) -> None:
    assert again(first, last) == words


@pytest.mark.parametrize(
    ("every", "words"),
    [
        (3, "back to the state of round 3; round 4 is played again"),
        (5, "back to the state of round 0; rounds 1 to 4 are played again"),
    ],
)
def test_a_run_goes_back_to_a_checkpoint_before_an_unusable_state(
    every: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The state after round 5 is of no use: with ``every=5`` it has a checkpoint all the same."""
    train, diverged = PreparedRound.train, list[str]()

    def broken(self: PreparedRound) -> None:
        site, number = self.context.data.site, self.number
        if number == 6 and len(diverged) < 4:
            diverged.append(site)
            raise Diverged("the loss became nan")
        train(self)
        if number == 5 and site == "site-01":  # so that it stands out
            with torch.no_grad():
                for parameter in self.site_round.trainable().values():
                    parameter *= 50

    monkeypatch.setattr(PreparedRound, "train", broken)
    chosen = ["strategy.fraction=1", "strategy.bounds.norm_factor=null"]
    chosen += ["groups.personal=[head.out]", f"strategy.checkpoint_every={every}"]
    results = play(tmp_path, *chosen)
    assert words in caplog.text
    assert [record["round"] for record in results["rounds"]] == list(range(1, ROUNDS + 1))
    first = int(words.split("round ")[1][0]) + 1
    suspects = [record["round"] for record in results["rounds"] if record["suspects"]]
    assert suspects == [first]
    assert all("site-01" not in r["participants"] for r in results["rounds"][first - 1 :])
    assert not list(tmp_path.glob("**/set-aside/0*"))


def test_where_patience_ends_the_rounds_the_last_state_is_saved(tmp_path: Path) -> None:
    chosen = ["choose.patience=1", "choose.metric=loss", "train.optimizer.lr=1e-12"]
    results = play(tmp_path, *chosen, "strategy.checkpoint_every=2", "strategy.evaluate_every=2")
    assert results["stopped"]["round"] == 5  # round 5 measured that the state after 4 is no better
    assert results["best"]["round"] == 2
    checkpoints = tmp_path / results["run"] / "checkpoints"
    assert [path.name[-1] for path in sorted(checkpoints.glob("round-*"))] == ["2", "4", "5"]
