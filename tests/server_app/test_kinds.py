"""Classes, labels and numbers in one federation over common layers, from the loss to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from flwr.app import Message
from PIL import Image

from fedstrata.protocol import kinds
from fedstrata.protocol.class_measures import RATES
from fedstrata.protocol.task_kinds import TaskKind
from models.model_file import read_card
from server_app.report import closing
from site_guard.answers import AnswerFilter
from site_guard.settings import SiteSettings
from tests.helpers.runs import DOCS, SMALL, Crash, grid_of, same, states, without_times
from tests.loopback import LoopbackGrid, simulate

TASKS = ("gender", "age_years", "all")
CLASSES = ("female", "male", "years", "young", "glasses", "turned", "visible")
MIXED = [
    *SMALL,
    "groups=body_common_head_task",
    "groups.task=[head]",
    f"data.tasks=[{','.join(TASKS)}]",
    "baselines.alone=true",
    "deployment.epochs=1",
    "deployment.groups=[task]",
]
LINEAR = [*MIXED, "model=mlp", "model.hidden=[6]", "groups.common=[fc1]"]


def guarded(message: Message, reply: Message) -> Message:
    """Return the answer as the site's own process lets it out."""
    number = message.metadata.dst_node_id - 100
    if number not in FILTERS:
        place: dict[str, Any] = {"site": f"site-{number:02d}", "state": "/s", "cache": "/c"}
        settings = SiteSettings(
            **place,
            task=TASKS[number % 3],
            share=("common", "task"),
            classes=CLASSES,
            describe=("range", "confusion"),
        )
        FILTERS[number] = AnswerFilter(settings)
    asked = message
    asked.metadata.__dict__["_run_id"] = 1
    return FILTERS[number].filter_answer(asked, reply, FILTERS[number].check_order(asked))


FILTERS: dict[int, AnswerFilter] = {}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], LoopbackGrid]:
    """Play a run of six sites, two of each kind; every answer passes the site's guard."""
    FILTERS.clear()
    output = tmp_path_factory.mktemp("kinds")
    results, grid = simulate(output, "faces", MIXED, sites=6, name="mixed", tamper=guarded)
    return output, results, grid


def test_three_kinds_share_their_common_layers(played: Any) -> None:
    output, results, _ = played
    assert [results["sites"][f"site-{i:02d}"]["kind"] for i in range(6)] == [
        "classes", "number", "labels", "classes", "number", "labels",
    ]  # fmt: skip
    assert all(len(each["participants"]) == 6 for each in results["rounds"])
    shapes = {name: tuple(t.shape) for name, t in states(output, results["run"]).items()}
    outs = {name: shape[0] for name, shape in shapes.items() if name.endswith("head.out.bias")}
    assert sorted(outs.values()) == [1, 2, 5]
    assert len([name for name in shapes if name.endswith("conv1.weight")]) == 1  # of all tasks


def test_results_follow_the_schema_and_each_site_has_the_measures_of_its_kind(played: Any) -> None:
    _, results, _ = played
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    sites = results["final"]["sites"]
    for number, leading in enumerate(("accuracy", "mae", "auroc")):
        site = sites[f"site-{number:02d}"]
        low, high = site["interval"]
        assert low <= site[leading] <= high
        assert site[f"alone_{leading}"] == site["alone"][leading]
    assert set(sites["site-02"]["by_output"]) == {"male", "young", "glasses", "turned", "visible"}
    assert results["final"]["tasks"]["age_years"]["unit"] == "years"
    of_classes = [sites[name]["accuracy"] for name in ("site-00", "site-03")]
    assert results["final"]["mean"]["accuracy"] == pytest.approx(sum(of_classes) / 2)


def test_each_class_and_label_is_measured_at_the_end(played: Any) -> None:
    final, sites = played[1]["final"], played[1]["sites"]
    for number, names in ((0, {"female", "male"}), (2, {"male", "young"})):
        name = f"site-{number:02d}"
        site = final["sites"][name]
        assert names <= set(site["by_class"])
        one = site["by_class"]["male"]
        assert sum(one["counts"].values()) == sites[name]["examples"]["test"]
        assert 0 < one["threshold"] < 1
    assert "by_class" not in final["sites"]["site-01"]
    assert np.sum(final["tasks"]["gender"]["confusion"]) == final["tasks"]["gender"]["examples"]
    assert "by_class" not in final["tasks"]["age_years"]
    assert all("by_class" not in site for site in played[1]["rounds"][0]["sites"].values())
    tuned = played[1]["deployment"]["sites"]["site-02"]
    assert tuned["before"]["by_class"] == final["sites"]["site-02"]["by_class"]
    assert tuned["after"]["by_class"] != tuned["before"]["by_class"]


def test_without_a_word_of_the_site_only_coarse_rates_leave_it(tmp_path: Path) -> None:
    def deployed(message: Message, reply: Message) -> Message:
        return filters[message.metadata.dst_node_id].filter_answer(
            message, reply, filters[message.metadata.dst_node_id].check_order(message)
        )

    place: dict[str, Any] = {"task": "gender", "share": ("common", "task"), "state": "/s"}
    filters = {
        100 + number: AnswerFilter(SiteSettings(site=f"site-0{number}", cache="/c", **place))
        for number in range(2)
    }
    chosen = [*LINEAR, "data.tasks=[gender]", "data.test=60", "strategy.rounds=1"]
    chosen += ["baselines.alone=false", "deployment.epochs=0"]
    results, _ = simulate(tmp_path, "faces", chosen, sites=2, tamper=deployed)
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    for site in results["final"]["sites"].values():
        one = site["by_class"]["male"]
        assert one["counts"] is site["confusion"] is None
        assert any(one[name] is not None for name in RATES)
        assert all(one[name] in (None, round(one[name] or 0, 2)) for name in RATES)
    assert results["final"]["tasks"]["gender"]["confusion"] is None


def test_the_end_is_said_in_words(played: Any) -> None:
    text = "\n".join(closing(played[1]))
    for words in ("age_years: MAE, ", "years against alone", "all: AUROC, ", "chance "):
        assert words in text
    assert "fine-tuned, age_years: mean MAE" in text


def test_the_model_at_a_site_says_what_its_outputs_are(played: Any) -> None:
    output, results, _ = played
    path = output / results["federation"] / "sites" / "site-01" / "deployed.safetensors"
    card = read_card(path)
    assert card.kind == TaskKind("number", mean=(30.0,), std=(15.0,), unit="years")
    assert card.outputs == ("years",)


def test_a_resumed_run_of_three_kinds_is_the_same_to_the_bit(played: Any, tmp_path: Path) -> None:
    output, whole, _ = played

    def dies(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type == kinds.TRAIN and message.content["order"]["round"] == 2:
            raise Crash
        return reply

    with pytest.raises(Crash):
        simulate(tmp_path, "faces", MIXED, grid=grid_of(tmp_path, dies, 6), name="again")
    grid = grid_of(tmp_path, None, 6)
    results, _ = simulate(tmp_path, "faces", MIXED, grid=grid, resume="latest")
    assert without_times(results)["final"] == without_times(whole)["final"]
    assert same(states(tmp_path, results["run"]), states(output, whole["run"]))


@pytest.mark.parametrize("more", [[], ["method=fedprox"]], ids=["batched", "one by one"])
def test_a_cohort_of_three_kinds_learns_what_its_sites_do(tmp_path: Path, more: list[str]) -> None:
    overrides = [*LINEAR, "baselines.alone=false", *more]
    alone, _ = simulate(tmp_path / "alone", "faces", overrides, sites=6)
    cohort = [*overrides, "cohort.sites=3"]
    together, _ = simulate(tmp_path / "cohort", "faces", cohort, sites=2)
    for name, site in alone["final"]["sites"].items():
        other = together["final"]["sites"][name]
        assert other["loss"] == pytest.approx(site["loss"], abs=1e-4)
        assert other["kind"] == site["kind"]
    batched = {s["numerics"]["batched_sites"] for s in together["rounds"][0]["sites"].values()}
    assert batched == {1}  # of three sites on a node no two are alike


def test_sites_of_one_kind_train_as_one(tmp_path: Path) -> None:
    chosen = [*LINEAR, "data.tasks=[age_years,all]", "strategy.rounds=1", "baselines.alone=false"]
    alone, _ = simulate(tmp_path / "alone", "faces", chosen, sites=6)
    together, _ = simulate(tmp_path / "cohort", "faces", [*chosen, "cohort.sites=6"], sites=1)
    assert {s["numerics"]["batched_sites"] for s in together["rounds"][0]["sites"].values()} == {3}
    for name, site in alone["final"]["sites"].items():
        assert together["final"]["sites"][name]["loss"] == pytest.approx(site["loss"], abs=1e-5)


def test_numbers_and_labels_of_a_manifest_are_learned(tmp_path: Path) -> None:
    """The age is how bright a picture is; a label that is unknown in a fifth of them is a bar."""
    root, generator = tmp_path / "data", np.random.default_rng(0)
    root.mkdir()
    rows = ["path,age,line,bright"]
    for number in range(160):
        light, line = int(generator.integers(20, 230)), int(generator.random() < 0.4)
        pixels = np.clip(generator.normal(light, 20, (28, 28, 3)), 0, 255).astype(np.uint8)
        pixels[:, :9] = 255 if line else pixels[:, :9]
        Image.fromarray(pixels).save(root / f"{number}.png")
        age = "" if number % 17 == 0 else f"{light / 3 + 5:.1f}"
        rows.append(f"{number}.png,{age},{line if number % 5 else ''},{int(light > 120)}")
    (root / "all.csv").write_text("\n".join(rows))
    age = "age:{kind:number,mean:45,std:20,unit:years}"
    chosen = [
        *(one for one in SMALL if not one.startswith("data.")),
        "groups=body_common_head_task",
        "groups.task=[head]",
        "data.manifest=all.csv",
        "data.size=28",
        f"data.tasks={{{age},marks:{{columns:[line,bright],kind:labels}}}}",
        "train.optimizer.lr=0.05",
        "strategy.rounds=8",
        "strategy.fraction=0.9",
    ]
    results, _ = simulate(tmp_path / "out", "images", chosen, sites=4, data_root=str(root))
    tasks = results["final"]["tasks"]
    assert tasks["age"]["mae"] < tasks["age"]["baseline_mae"] / 2
    assert tasks["marks"]["auroc"] > 0.85
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
