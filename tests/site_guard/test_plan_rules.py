"""The rules for plans: what the project itself runs is accepted, what is made to show data is not."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedstrata.protocol import kinds, orders
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from models.networks import MODELS, build
from site_guard.plan_rules import PlanRules, read_plan
from site_guard.settings import read_settings
from tests.helpers.members import round_report, site_report
from tests.helpers.plans import plan_of
from tests.helpers.source import ROOT
from tests.system.federation import RUN

RULES = PlanRules()
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
# By experiment, its network: one layer of it sees all raw values, or every place of a picture.
OF_RAW_VALUES = {"har": "mlp", "tabular": "linear", "pflbench": "fedavg_cnn"}


def message_with(plan: object) -> Message:
    made = orders.order(kinds.QUERY, 7, plan="", round_number=0, layers={}, ttl=60.0)
    made.content[kinds.PLAN] = ConfigRecord({"json": plan})  # type: ignore[dict-item]
    return made


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_by_default_every_experiment_is_accepted_but_that_on_raw_values(experiment: str) -> None:
    plan = plan_of(experiment)
    if experiment in OF_RAW_VALUES:
        model = OF_RAW_VALUES[experiment]
        with pytest.raises(Refused, match=f"the plan trains '{model}'"):
            RULES.check_plan(plan)
        PlanRules(models=(model,)).check_plan(plan)
        return
    RULES.check_plan(plan)
    RULES.check_examples(plan, 100)


def test_by_default_the_runs_of_the_system_tests_are_accepted() -> None:
    plan = plan_of(
        "faces_paper", *RUN, "weights=none", "groups.pretrained=[]", "groups.common=[...]"
    )
    RULES.check_plan(plan)
    RULES.check_examples(plan, 24)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"text_encoder", "fedavg_cnn"}))
def test_by_default_no_network_begins_with_a_layer_linear_in_all_raw_values(name: str) -> None:
    options = {"hidden": [8]} if "mlp" in name else {}
    light = ("mlp", "mlp_bn", "linear", "small_cnn")
    options |= {"classifier": False} if name.startswith(("vgg", "mobilenet_v3")) else {}
    with torch.device("cpu" if name in light else "meta"):
        network = build(name, input_shape=(3, 64, 64), classes=2, head=[], **options)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert isinstance(layers[0], nn.Linear) == (name not in RULES.models)
    assert "fedavg_cnn" not in RULES.models


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=mlp", "the plan trains 'mlp', and this site's rule is `plan: models`: resnet4"),
        ("train.batch_size=7", "batches of 7, and this site's rule is `plan: min-batch-size`: 8"),
        ("train.optimizer.lr=1.5", "is 1.5, and this site's rule is `plan: max-learning-rate`: 1"),
        ("deployment.epochs=1 deployment.lr_factor=100", "learning rate is 3"),
        ("train.epochs=null train.steps=1", "has 1 steps, and this site's rule is `plan: min-st"),
        ("train.epochs=null train.steps=2 train.batch_size=8", "has 16 examples"),
    ],
)
def test_a_plan_that_breaks_a_rule_is_refused_by_its_name(override: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        RULES.check_plan(plan_of("faces_paper", "weights=none", *override.split()))
    assert words in str(refused.value)


def test_models_may_be_globs() -> None:
    PlanRules(models=("resnet*",)).check_plan(plan_of("faces_paper"))
    with pytest.raises(Refused):
        PlanRules(models=("resnet*",)).check_plan(plan_of("medmnist"))


def test_only_tensors_that_are_listed_for_a_group_are_exchanged_in_it() -> None:
    rules = PlanRules(groups={"common": ("layer4",), "task": ("head.*",)})
    rules.check_tensors("common", ["layer4.0.conv1.weight", "layer4.1.conv2.weight"])
    rules.check_tensors("task", ["head.0.weight"])
    with pytest.raises(Refused, match=r"exchanges 'layer40.weight' in 'common'.*layer4"):
        rules.check_tensors("common", ["layer40.weight"])
    with pytest.raises(Refused, match="nothing"):
        PlanRules(groups={"common": ("layer4",)}).check_tensors("task", ["head.0.weight"])
    PlanRules().check_tensors("common", ["anything"])


def test_a_site_with_few_examples_is_refused_without_their_number() -> None:
    plan = plan_of("faces_paper")
    report = site_report(examples={"train": 13, "validation": 4, "test": 4})
    with pytest.raises(Refused) as refused:
        RULES.check_site_report(plan, report)
    assert "`plan: min-examples`: 20" in str(refused.value)
    assert "13" not in str(refused.value)
    RULES.check_site_report(plan, site_report())


def test_layers_that_the_app_announces_keep_to_the_groups() -> None:
    rules = PlanRules(groups={"common": ("layer4",)})
    with pytest.raises(Refused, match=r"fc1\.weight"):
        rules.check_site_report(
            plan_of("faces_paper"), site_report(schemas={"common": {"fc1.weight": "float32[2]"}})
        )


def test_an_update_of_too_few_steps_or_examples_does_not_leave() -> None:
    plan = plan_of("faces_paper")
    RULES.check_report(plan, round_report())
    with pytest.raises(Refused, match="min-steps"):
        RULES.check_report(plan, round_report(steps=1))
    with pytest.raises(Refused, match="min-examples"):
        RULES.check_report(plan, round_report(examples=19))
    with pytest.raises(Refused, match="min-examples"):  # two steps saw no more than 16
        RULES.check_report(
            plan_of("faces_paper", "train.batch_size=8"), round_report(steps=2, examples=100)
        )


def test_a_round_of_one_batch_is_known_before_it_is_trained() -> None:
    plan = plan_of("images")  # one epoch in batches of 32
    with pytest.raises(Refused, match="min-steps"):
        RULES.check_examples(plan, 32)
    RULES.check_examples(plan, 33)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("min-steps: 0", "min-steps must be at least 1"),
        ("models: []", "models is empty"),
        ("max-rounds-per-day: 0", "write share: []"),
        ("max-learning-rate: .nan", "max-learning-rate must be above 0"),
        ("max-learning-rat: 1", "plan has no entry 'max-learning-rat'; nearest"),
        ("groups: {personal: [head]}", "groups has 'personal'"),
        ("groups: {common: ['...']}", "groups has '...'"),
        ("min-steps: 9", "max-steps 5 is below plan: min-steps 9"),
    ],
)
def test_impossible_rules_are_an_error(tmp_path: Path, entries: str, words: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        "{site: a, task: b, state: /s, cache: /c, share: [common], max-steps: 5, "
        f"plan: {{{entries}}}}}"
    )
    with pytest.raises(UserError) as error:
        read_settings(path)
    assert words in str(error.value)


@given(
    st.text()
    | st.integers()
    | st.recursive(
        st.none() | st.floats() | st.text() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ).map(json.dumps)
)
def test_what_is_no_plan_is_refused(plan: object) -> None:
    with pytest.raises(Refused, match="plan"):
        read_plan(message_with(plan))


@given(
    st.sampled_from(sorted(json.loads(plan_of("faces_paper").to_json()))),
    st.none()
    | st.integers()
    | st.text()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.none()),
)
def test_a_plan_with_one_wrong_entry_is_read_or_refused(entry: str, value: object) -> None:
    changed = {**json.loads(plan_of("faces_paper").to_json()), entry: value}
    with suppress(Refused):  # and nothing else
        _, plan = read_plan(message_with(json.dumps(changed)))
        RULES.check_plan(plan)


def test_an_order_without_a_plan_is_refused() -> None:
    message = message_with("")
    message.content = RecordDict()
    with pytest.raises(Refused, match="no plan"):
        read_plan(message)


def test_a_name_that_could_leave_its_folder_is_no_federation() -> None:
    with pytest.raises(Refused, match="federation is no name"):
        read_plan(message_with(plan_of("faces_paper", federation="../x").to_json()))


def test_sums_are_asked_for_only_where_the_site_allows_it() -> None:
    plan = plan_of("tabular", "data.standardize=agreed")
    rules = PlanRules(models=("linear",))
    with pytest.raises(Refused, match=r"asks for sums .* this site's rule is `plan: sums`: false"):
        rules.check_plan(plan)
    with pytest.raises(Refused, match="`plan: sums`"):  # a plan that has a scale asked for one
        rules.check_plan(replace(plan, agreed={"mean": [], "std": []}))
    PlanRules(models=("linear",), sums=True).check_plan(plan)
    rules.check_plan(
        plan_of("tabular", "data.standardize=agreed", "data.constants={mean:[0],std:[1]}")
    )


def test_categories_are_named_only_of_columns_that_the_site_allows() -> None:
    plan = plan_of("tabular", "data.categories={cp:agreed,thal:agreed,sex:[f,m]}")
    known = replace(plan, categories={"cp": ["1", "2"], "thal": ["3", "6"]})
    for allowed, refused in (((), "'cp', 'thal'"), (("cp",), "'thal'")):
        rules = PlanRules(models=("linear",), categories=allowed)
        for each in (plan, known):  # a plan that has the list asked for it
            with pytest.raises(
                Refused, match=f"categories in the column {refused} .*`plan: categor"
            ):
                rules.check_plan(each)
    for allowed in (("cp", "thal"), ("*",)):
        PlanRules(models=("linear",), categories=allowed).check_plan(plan)
    PlanRules(models=("linear",)).check_plan(plan_of("tabular", "data.categories={sex:[f,m]}"))


@pytest.mark.parametrize(("kind", "of"), [(kinds.CROSS, ""), (kinds.EVALUATE, "north")])
def test_a_cross_site_table_needs_the_plan_and_the_site(kind: str, of: str) -> None:
    without, with_it = plan_of("faces"), plan_of("faces", "cross_site=updates")
    whole = plan_of("faces", "cross_site=models")
    allowed = PlanRules(cross_site=True)
    allowed.check_crossing(with_it, kind, of)
    for plan in (without, whole):
        with pytest.raises(Refused, match="its plan has none of updates"):
            allowed.check_crossing(plan, kind, of)
    with pytest.raises(Refused, match="this site's rule is `plan: cross-site`: false"):
        RULES.check_crossing(with_it, kind, of)
    RULES.check_plan(with_it)  # it takes part in the rounds
    RULES.check_crossing(with_it, kinds.EVALUATE, "")
