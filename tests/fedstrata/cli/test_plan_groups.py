"""A person of a hospital reads what leaves and what arrives with the method of the run."""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest

from fedstrata.cli.plan_groups import UNKNOWN, covering, group_rows
from strategies.methods import METHODS
from tests.helpers.plans import plan_of

SHARED = ("common", "task")
REFUSED = "; `share` does not name it: this site refuses the run"


def rows_of(*overrides: str, share: tuple[str, ...] = SHARED) -> dict[str, str]:
    groups, sizes = group_rows(plan_of("faces_paper", *overrides), "gender", share)
    assert groups
    return dict([*groups, *sizes])


def test_a_method_that_shares_class_means_sends_no_layer() -> None:
    rows = rows_of("method=fedproto")
    assert rows["group pretrained"].endswith("layer3: frozen, and stays here")
    assert rows["group personal"] == "layer4, head: stays here"
    assert "group common" not in rows
    assert rows["knowledge prototypes"].startswith("leaves in each round: for each class")
    assert rows["knowledge prototypes"].endswith(REFUSED)
    # Two classes: sums of 64 features, and counts, as float32.
    assert rows["bytes a round"] == (
        "2 tensors of prototypes in 520 bytes leave; 2 tensors of prototypes in 520 bytes arrive"
    )
    assert not rows_of("method=fedproto", share=("prototypes",))["knowledge prototypes"].endswith(
        REFUSED
    )


def test_what_the_server_makes_arrives_and_never_leaves() -> None:
    rows = rows_of("method=fedgen")
    assert rows["group task"].startswith("head.out: leaves, averaged over the task (up exact")
    assert rows["received generator"].startswith("from the server, and never leaves: a generator")
    up, down = rows["bytes a round"].split("; ")
    assert up == "2 tensors of task in 520 bytes and 1 tensor of label_counts in 8 bytes leave"
    assert "5 tensors of generator in 21,508 bytes arrive" in down


def test_pictures_are_as_large_as_an_example() -> None:
    rows = rows_of("method=fedktl")
    assert "received pictures" in rows
    assert rows["bytes a round"].endswith(
        "3 tensors of pictures with a picture of each class, as large as an example here, arrive"
    )


def test_what_leaves_once_is_in_no_round() -> None:
    rows = rows_of("method=dbe", share=(*SHARED, "means"))
    assert rows["knowledge means"].startswith("leaves: once, before round 1")
    assert "means" not in rows["bytes a round"]


def test_a_model_that_a_plan_only_claims_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = rows_of("groups=all_common", "method=fedavg", f"model.head={[8192] * 8}")
    sent = int(rows["bytes a round"].split(" bytes leave")[0].rpartition(" ")[2].replace(",", ""))
    assert sent > 7 * 4 * 8192**2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_knowledge_that_a_method_does_not_use_is_not_named() -> None:
    assert "knowledge proximal" in rows_of("method=fedprox", "method.adapt=true")
    assert "knowledge proximal" not in rows_of("method=fedprox")


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"fedbn", "fedktl"}))
def test_a_perceptron_has_its_groups_before_the_inputs_are_known(method: str) -> None:
    rows = rows_of("model=mlp", "groups=all_common", "model.head=[]", f"method={method}")
    assert rows["bytes a round"] == UNKNOWN


def test_a_plan_that_cannot_be_built_says_so() -> None:
    plan = replace(plan_of("faces_paper"), model={"name": "no such network"})
    groups, sizes = group_rows(plan, "gender", SHARED)
    assert groups == []
    assert sizes == [("bytes a round", "not known here (UserError)")]


def test_a_prefix_stands_for_all_that_is_below_it() -> None:
    everything = frozenset({"fc1.weight", "fc1.bias", "fc10.weight", "fc10.bias"})
    assert covering(["fc1.weight", "fc1.bias"], everything) == ["fc1"]
    assert covering(["fc1.weight", "fc10.weight", "fc10.bias"], everything) == [
        "fc1.weight",
        "fc10",
    ]
