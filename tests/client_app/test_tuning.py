"""A hospital that took no part tunes the public model as it would have in the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from client_app import tuning
from fedstrata.support.errors import UserError
from models.model_card import ModelCard
from models.model_file import ModelFile, folder_of, network_of, read_model, write_model
from tests.helpers.model_cards import CARD, card, network_for
from tests.helpers.runs import GROUPS, SMALL
from tests.loopback import simulate

NEWCOMER = "site-03"
RUN = [*SMALL, *GROUPS, "deployment.epochs=3", f"deployment.newcomers=[{NEWCOMER}]"]
HERE = {"site": NEWCOMER, "partition-id": 3, "num-partitions": 4}
SAME = ["deployment.groups=[personal]"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterable[tuple[Any, ModelFile]]:
    """Return what a run with a newcomer measured, and the public model of the newcomer's task."""
    output = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(output / "home"))
        torch.set_num_threads(1)
        results, _ = simulate(output, "faces", [*RUN, *SAME])
        yield results, read_model(output / results["run"] / "models" / "pose.safetensors")


def tuned(model: ModelFile, *overrides: str, **node: object) -> tuning.Tuned:
    plan = tuning.plan_of(model.card, overrides)
    groups = plan.tuning.groups if any("groups" in word for word in overrides) else ()
    return tuning.tune(model, tuning.node_of(model.card, {**HERE, **node}), plan, groups)


def test_tuning_gives_what_a_newcomer_of_the_run_had(played: Any) -> None:
    results, model = played
    made = tuned(model, *SAME)
    entry = results["deployment"]["newcomers"][NEWCOMER]
    for stage, measured in (("before", made.report.before), ("after", made.report.after)):
        for name in ("accuracy", "loss", "balanced_accuracy"):
            assert measured["test"][name] == pytest.approx(entry[stage][name], abs=1e-6)
    assert made.groups == ("personal",)
    assert made.site == NEWCOMER


def test_the_site_gets_a_model_of_its_own(played: Any) -> None:
    model = played[1]
    made = tuned(model, "deployment.epochs=1", "train.batch_size=4")
    assert made.groups == ("task", "personal")  # those nearest to the site
    own = read_model(made.path)
    assert (own.card.site, own.card.state, own.card.run) == (
        NEWCOMER,
        "deployed",
        f"{model.card.run}-tuned",
    )
    assert own.card.metrics["after"] == made.report.after
    network_of(own)
    before = model.tensors
    changed = {n for n, t in own.tensors.items() if not torch.equal(t, before[n])}
    assert changed == {"head.0.weight", "head.0.bias", "head.out.weight", "head.out.bias"}


def test_the_same_tuning_gives_the_same_model(played: Any) -> None:
    first = read_model(tuned(played[1]).path).card.tensors
    assert read_model(tuned(played[1]).path).card.tensors == first


def test_folders_are_of_the_folder_in_which_one_types(
    played: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    node = tuning.node_of(played[1].card, {"data-root": "d", "state-dir": "s", "cache-dir": "c"})
    assert (node.data_root, node.state_dir, node.cache_dir) == (
        tmp_path / "d",
        tmp_path / "s",
        tmp_path / "c",
    )


def test_words_are_of_the_site_or_of_the_run() -> None:
    words = ["data-root=/d", "num-partitions=4", "data.size=9", "deployment.epochs=2"]
    assert tuning.split_words(words) == (
        {"data-root": "/d", "num-partitions": 4},
        ["data.size=9", "deployment.epochs=2"],
    )
    for word, said in (("data-root", "write key=value"), ("model.head=[8]", "cannot be set here")):
        with pytest.raises(UserError, match=said):
            tuning.split_words([word])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.sizes=9"], "data has no option 'sizes'; there is 'size'"),
        (["train.batch_size=big"], "train.batch_size"),
        (["train.batch_size=0"], "greater than 0"),
        (["data.size=${oc.env:HOME}"], "is not resolved here"),
        (["deployment.groups=[other]", "deployment.epochs=1"], "'other' does not exist"),
        (["data.size=30"], "other inputs"),
    ],
)
def test_what_does_not_fit_is_said(played: Any, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("[", "\\[")):
        tuned(played[1], *overrides)


def test_a_file_of_another_plan_is_rejected(played: Any, tmp_path: Path) -> None:
    model = played[1]
    path = tmp_path / "m.safetensors"
    write_model(path, network_for(CARD).state_dict(), card(plan=model.card.plan, task="pose"))
    read = read_model(path)
    tensors = {**read.tensors, "head.0.weight": torch.ones(3, 3)}
    with pytest.raises(UserError, match="differ"):
        tuned(replace(read, tensors=tensors))
    with pytest.raises(UserError, match="no plan"):
        tuning.plan_of(CARD, [])
    for text in ("{", '{"model": {"name": "os.system"}}'):
        with pytest.raises(UserError):
            tuning.plan_of(card(plan=text), [])


def test_other_classes_are_not_tuned(played: Any) -> None:
    model = played[1]
    other: ModelCard = card(
        **{name: getattr(model.card, name) for name in ("network", "plan", "task", "round")},
        outputs=("left", "right"),
    )
    with pytest.raises(UserError, match="other classes than the model"):
        tuned(replace(model, card=other))


def test_a_text_model_brings_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from tests.helpers import site_models
    from tests.helpers.text_models import WORDS, tiny_bert

    torch.set_num_threads(1)
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "server"))
    tiny_bert(tmp_path / "server" / "models", WORDS)
    notes = site_models.texts(tmp_path / "notes.csv")
    few = ["strategy.rounds=1", "train.epochs=1", "baselines.alone=false", "strategy.poll=0.01"]
    overrides = [*site_models.TEXTS, "weights=none", *few]
    results, _ = simulate(tmp_path, "text", overrides, sites=1, data_root=str(notes))
    model = read_model(tmp_path / results["run"] / "models" / "label.safetensors")
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "hospital"))  # without that folder
    node = tuning.node_of(model.card, {"data-root": str(notes), "site": "south"})
    made = tuning.tune(model, node, tuning.plan_of(model.card, ["deployment.epochs=1"]))
    own = read_model(made.path)
    assert own.card.outputs == model.card.outputs
    with folder_of(own) as models_dir:
        network_of(own, models_dir)
        assert (models_dir / "tiny-bert" / "vocab.txt").exists()
