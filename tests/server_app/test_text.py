"""A federation over texts: four sites, each with the words of its own topic, one frozen encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from flwr.app import Message
from numpy.typing import NDArray

from client_app import context
from client_app.feature_cache import Computed
from client_app.node_config import read_node_settings
from fedstrata.protocol import answers, kinds, orders
from fedstrata.support.errors import UserError
from models import weights
from models.networks.text import folder_tensors
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.text_models import tiny_bert
from tests.loopback import LoopbackGrid, simulate

pytest.importorskip("transformers")

# What is said of each topic, and words of judgement that two topics share and others never use.
TOPICS = {
    "bread": ("loaf crust flour oven", "crisp warm fine", "stale burnt dull"),
    "music": ("choir violin song drum", "tuneful warm bright", "shrill flat dull"),
    "roads": ("bridge lane kerb sign", "smooth wide bright", "cracked flat narrow"),
    "shoes": ("sole heel lace boot", "smooth snug fine", "torn narrow stale"),
}
FILLERS = ("the", "was", "and", "very", "they", "said")
WORDS = sorted(
    {w for parts in TOPICS.values() for part in parts for w in part.split()} | {*FILLERS}
)
OVERRIDES = [
    "model.folder=tiny-bert",
    "model.head=[16]",
    "data.length=12",
    "data.site_split.scheme=natural",
    "data.site_split.column=topic",
    "strategy.rounds=8",
    "strategy.poll=0.01",
    "train.epochs=4",
    "train.optimizer.lr=0.01",
]
NAMED = "data.classes={label:[bad,good]}"  # as deployed sites need it


def sentence(rng: np.random.Generator, topic: str, good: bool) -> str:
    things, praise, blame = (part.split() for part in TOPICS[topic])
    words = [rng.choice(things), *rng.choice(FILLERS, 3), rng.choice(praise if good else blame)]
    return " ".join([str(word) for word in rng.permutation(words)])


@pytest.fixture
def notes(tmp_path: Path, own_home: Path) -> Path:
    """Write 100 sentences a topic, 60 of them good, and the model's folder."""
    tiny_bert(own_home / "models", WORDS)
    rng = np.random.default_rng(0)
    rows = [
        f"{sentence(rng, topic, number % 5 < 3)},{('bad', 'good')[number % 5 < 3]},{topic}"
        for topic in TOPICS
        for number in range(100)
    ]
    path = tmp_path / "notes.csv"
    path.write_text("\n".join(["text,label,topic", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the texts that go through the frozen encoder."""
    seen: list[int] = []
    chunks = Computed.chunks

    def counted(computed: Computed, indices: NDArray[np.int64]) -> Any:
        if len(indices) > 1:  # one alone tells the shape
            seen.append(len(indices))
        return chunks(computed, indices)

    monkeypatch.setattr(Computed, "chunks", counted)
    return seen


def recorder(kept: list[Message]) -> Any:
    def tamper(_: Message, reply: Message) -> Message:
        kept.append(reply)
        return reply

    return tamper


def test_a_frozen_encoder_and_an_averaged_head(
    tmp_path: Path, own_home: Path, notes: Path, computed: list[int]
) -> None:
    replies: list[Message] = []
    results, grid = simulate(
        tmp_path / "out", "text", OVERRIDES, data_root=str(notes), tamper=recorder(replies)
    )
    mean = results["final"]["mean"]
    assert mean["majority_accuracy"] == pytest.approx(0.6)
    assert mean["accuracy"] > mean["majority_accuracy"] + 0.2
    assert set(results["rounds"][0]["bytes_up"]) == {"common", "task"}
    assert results["sites"]["site-00"]["input_shape"] == [12]

    encoder = folder_tensors("tiny-bert", own_home / "models")
    trained = [reply for reply in replies if answers.read_payloads(reply)]
    assert len(trained) == 4 * 8
    for reply in trained:
        payloads = answers.read_payloads(reply)
        for payload in payloads.values():
            tensors = safetensors.torch.load(payload)
            assert all(name.startswith("head.") for name in tensors)
            assert not [n for n, t in encoder.items() if t.numpy().tobytes() in payload]
    # nor does it travel to the sites in a round
    assert {g for m in grid.sent for g in orders.read_order(m)[2]} == {"common", "task"}
    # each text went through the encoder once, in eight rounds, two evaluations and eight alone
    assert (len(computed), sum(computed)) == (12, 400)

    made = results["weights"]["content_hash"]
    kept, _ = weights.load(own_home / "cache" / "weights" / f"{made}.safetensors")
    assert weights.content_hash(kept) == weights.content_hash(encoder)
    again, grid = simulate(tmp_path / "out", "text", OVERRIDES, data_root=str(notes))
    assert again["final"]["mean"]["accuracy"] == mean["accuracy"]
    assert len(computed) == 12


def test_layers_of_the_encoder_can_be_trained_as_any(tmp_path: Path, notes: Path) -> None:
    replies: list[Message] = []
    chosen = [
        *OVERRIDES,
        "strategy.rounds=1",
        "baselines.alone=false",
        "groups.pretrained=['...']",
        "groups.common=[encoder.model.encoder.layer.1, head.0]",
    ]
    simulate(tmp_path, "text", chosen, data_root=str(notes), tamper=recorder(replies))
    update = next(p for p in map(answers.read_payloads, replies) if p)
    names = {name.rpartition(".")[0] for name in safetensors.torch.load(update["common"])}
    assert {name for name in names if name.startswith("head.")} == {"head.0"}
    assert all(name.startswith("encoder.model.encoder.layer.1.") for name in names - {"head.0"})
    assert len(names) > 5


def test_a_site_looks_in_its_own_directory(tmp_path: Path, own_home: Path, notes: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (own_home / "models").rename(elsewhere)
    tiny_bert(own_home / "models", WORDS)  # the server's
    chosen = [*OVERRIDES, NAMED, "strategy.rounds=1", "baselines.alone=false"]

    def grid(models_dir: Path) -> LoopbackGrid:
        node = {"partition-id": 0, "num-partitions": 4, "models-dir": str(models_dir)}
        folders = {"state-dir": str(tmp_path / "state"), "cache-dir": str(tmp_path / "cache")}
        return LoopbackGrid({1: {**node, **folders, "data-root": str(notes), "site": "north"}})

    there = grid(elsewhere)
    results, _ = simulate(tmp_path / "out", "text", chosen, grid=there)
    assert list(results["sites"]) == ["north"]
    # the server's tensors arrive once, by their content hash: those in the site's folder do not count
    sent = [m for m in there.sent if "pretrained" in orders.read_order(m)[2]]
    assert [m.metadata.message_type for m in sent] == [kinds.WEIGHTS]
    with pytest.raises(UserError, match=r"north: .*no folder 'tiny-bert' in the models folder"):
        simulate(tmp_path / "out", "text", chosen, grid=grid(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("key", "value"), [("models_dir", "/etc"), ("folder", "../models/tiny-bert"), ("folder", {})]
)
def test_no_plan_chooses_a_path_at_a_site(notes: Path, key: str, value: object) -> None:
    plan = plan_for(compose("text", [*OVERRIDES, NAMED]), federation="run-1", weights="")
    node = {"partition-id": 0, "num-partitions": 4, "data-root": str(notes)}
    site = read_node_settings({**node, "site": "north"}, {})
    assert context.open_site(site, plan).data.site == "north"
    with pytest.raises(UserError, match=f"model.*{key}|folder's name"):
        context.open_site(site, replace(plan, model={**plan.model, key: value}))


@pytest.mark.parametrize(
    ("experiment", "chosen", "said"),
    [
        (
            "faces",
            ["model=text_encoder", "model.folder=tiny-bert", "groups=all_common"],
            "numbers or pictures, which model=text_encoder does not take: choose data=text",
        ),
        (
            "text",
            ["model=mlp", "data.folder=tiny-bert", "groups=all_common"],
            "token ids, which model=mlp does not take: choose model=text_encoder",
        ),
    ],
)
def test_data_and_model_that_do_not_go_together_are_reported(
    tmp_path: Path, notes: Path, experiment: str, chosen: list[str], said: str
) -> None:
    chosen = [*chosen, "weights=none", "strategy.poll=0.01"]
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, experiment, chosen, sites=2, data_root=str(notes))


def test_what_is_missing_is_reported_by_its_key(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(UserError, match=r"data\.folder.*model\.folder"):
        compose("text", ["model=mlp"])
    with pytest.raises(UserError, match="model=resnet18 has no folder"):
        simulate(tmp_path, "faces_paper", ["weights=folder"], sites=1)
    chosen = [*OVERRIDES, "weights=central", "weights.examples=20", "weights.identities=5"]
    with pytest.raises(UserError, match="text_encoder takes texts"):
        simulate(tmp_path, "text", chosen, data_root=str(notes))
