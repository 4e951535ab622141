"""Every tensor in exactly one group, by the rules; what does not fit is an error with names."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models as torchvision_models

from fedstrata.protocol.tensors import TensorSpec
from models.freezing import freeze, set_train_mode
from models.groups import (
    COMMON,
    FOUR_GROUPS,
    PERSONAL,
    PRETRAINED,
    TASK,
    Group,
    Partition,
    PartitionError,
    Scope,
    partition_tensors,
)


def test_a_group_that_goes_down_only_travels_and_does_not_leave() -> None:
    made = Group("hints", Scope.SAME_TASK, down_only=True)
    assert (made.exchanged, made.leaves, made.trained) == (True, False, True)
    assert not Group("hints", Scope.SAME_TASK, knowledge=True, down_only=True).trained
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    entries = {"common": ["a"], "hints": ["b"]}
    partition = partition_tensors(model, entries, {**FOUR_GROUPS, "hints": made})
    assert partition.exchanged_groups() == ("common", "hints")
    assert partition.leaving_groups() == ("common",)
    assert partition.kept_names() == ()


def chain(**layers):
    return nn.Sequential(OrderedDict(layers))


def two_blocks():
    return chain(
        conv1=nn.Conv2d(1, 2, 3),
        block=chain(a=nn.Conv2d(2, 2, 1), bn=nn.BatchNorm2d(2)),
        head=chain(**{"0": nn.Linear(2, 3), "out": nn.Linear(3, 2)}),
    )


MODEL = two_blocks()
NAMES = list(MODEL.state_dict())


def owners(model=MODEL, **entries):
    return partition_tensors(model, entries).group_of


def refused(match, model=MODEL, **entries):
    with pytest.raises(PartitionError, match=match):
        partition_tensors(model, entries)


# -- which entry matches what ------------------------------------------------------------------


def test_a_path_ends_at_a_dot():
    model = chain(fc1=nn.Linear(2, 2), fc10=nn.Linear(2, 2))
    found = owners(model, common=["fc1"], task=["fc10"])
    assert found["fc1.weight"] == "common"
    assert found["fc10.weight"] == "task"
    refused("no group covers 'fc10.weight'", model, common=["fc1"])


def test_a_full_tensor_name_is_an_entry():
    found = owners(common=["..."], personal=["head.out.bias"])
    assert [n for n in found if found[n] == "personal"] == ["head.out.bias"]


def test_the_longest_path_wins_whatever_the_order():
    for entries in (
        {"common": ["head"], "task": ["head.out"], "personal": ["head.out.bias"]},
        {"personal": ["head.out.bias"], "task": ["head.out"], "common": ["head"]},
    ):
        found = owners(pretrained=["..."], **entries)
        assert found["head.0.bias"] == "common"
        assert found["head.out.weight"] == "task"
        assert found["head.out.bias"] == "personal"


def test_a_glob_matches_tensor_names_and_their_prefixes():
    model = torchvision_models.resnet18(weights=None)
    found = owners(model, common=["..."], personal=["layer4.*.bn1"])
    assert [n for n in found if found[n] == "personal"] == [
        f"layer4.{block}.bn1.{what}"
        for block in (0, 1)
        for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    found = owners(model, common=["..."], personal=["*.bias"])
    assert all((owner == "personal") == n.endswith(".bias") for n, owner in found.items())


@pytest.mark.parametrize("entry", ["block.?n", "block.[b]n", "block.b*"])
def test_star_question_mark_and_bracket_make_a_glob(entry):
    found = owners(common=["..."], personal=[entry])
    assert {n for n in found if found[n] == "personal"} == {n for n in NAMES if ".bn." in n}


def test_globs_tell_capitals_apart():
    refused("'CONV.' matches no tensor", common=["...", "CONV?"])


def test_globs_beat_paths_and_types_beat_globs():
    found = owners(common=["block.a.weight"], task=["block.*"], personal=["..."])
    assert found["block.a.weight"] == "task"
    found = owners(task=["*.running_mean"], personal=["type:BatchNorm2d"], common=["..."])
    assert found["block.bn.running_mean"] == "personal"


def test_the_longer_glob_wins():
    found = owners(common=["..."], task=["h*"], personal=["head.o*"])
    assert found["head.0.weight"] == "task"
    assert found["head.out.weight"] == "personal"


def test_a_type_takes_parameters_and_buffers_of_its_modules_alone():
    found = owners(common=["..."], personal=["type:BatchNorm2d"])
    assert [n for n in found if found[n] == "personal"] == [
        f"block.bn.{what}"
        for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]


def test_a_type_finds_all_batchnorms_of_vgg_11_bn():
    # There "bn" is in no name. VGG-11 has 8 convolutions, each with a BatchNorm of 5 tensors.
    with torch.device("meta"):
        model = torchvision_models.vgg11_bn(weights=None)
    found = partition_tensors(model, {"common": ["..."], "personal": ["type:BatchNorm2d"]})
    assert len(found.names("personal")) == 8 * 5
    assert not any("bn" in name for name in found.names("personal"))


def test_a_type_includes_subclasses_and_not_what_is_inside():
    class Mine(nn.Linear):
        pass

    model = chain(own=Mine(2, 2), attention=nn.MultiheadAttention(4, 2))
    found = owners(model, common=["type:MultiheadAttention"], personal=["type:Linear"])
    assert found["own.weight"] == "personal"
    assert found["attention.in_proj_weight"] == "common"
    assert found["attention.out_proj.weight"] == "personal"  # a Linear of its own


def test_the_first_parameters_are_counted_as_tutorials_do():
    model = two_blocks()
    names = [name for name, _ in model.named_parameters()]
    for count in range(1, len(names) + 1):
        made = partition_tensors(model, {"pretrained": [f"first:{count}"], "common": ["..."]})
        frozen = [name for name in names if made.group_of[name] == "pretrained"]
        assert frozen == names[:count]
    made = partition_tensors(model, {"pretrained": ["first:5"], "common": ["..."]})
    assert made.group_of["block.bn.weight"] == "pretrained"
    assert made.group_of["block.bn.bias"] == "common"
    assert made.group_of["block.bn.running_mean"] == "common"  # its layer is not whole
    assert made.remarks == (
        "groups.pretrained: first:5 is conv1.weight to block.bn.weight: conv1, block.a; "
        "only a part of block.bn; trained from block.bn.bias on",
    )
    whole = partition_tensors(model, {"pretrained": ["first:6"], "common": ["..."]})
    assert whole.group_of["block.bn.running_mean"] == "pretrained"
    assert whole.group_of["block.bn.num_batches_tracked"] == "pretrained"
    assert whole.remarks[0].endswith(": conv1, block; trained from head.0.weight on")


def test_paths_are_stronger_than_counting_and_fewer_than_more():
    entries = {"pretrained": ["first:2"], "common": ["first:6", "..."], "personal": ["conv1.bias"]}
    made = partition_tensors(two_blocks(), entries)
    assert made.group_of["conv1.weight"] == "pretrained"
    assert made.group_of["conv1.bias"] == "personal"
    assert made.group_of["block.bn.running_var"] == "common"


@pytest.mark.parametrize("entry", ["first:0", "first:", "first:-1", "first:two", "first:11"])
def test_a_number_that_cannot_be_counted_to_is_refused(entry):
    with pytest.raises(PartitionError, match="first:"):
        partition_tensors(two_blocks(), {"pretrained": [entry], "common": ["..."]})


def test_the_rest_takes_what_is_left():
    found = owners(task=["head"], common=["..."])
    assert {n for n in found if found[n] == "task"} == {n for n in NAMES if n.startswith("head.")}
    assert set(found.values()) == {"task", "common"}
    assert set(owners(task=["..."], common=["conv1", "block", "head"]).values()) == {"common"}


def test_a_tensor_of_the_model_itself_has_a_group():
    model = chain(fc=nn.Linear(2, 2))
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    assert owners(model, common=["fc"], personal=["scale"])["scale"] == "personal"


def test_an_entry_that_stronger_ones_overrule_everywhere_is_allowed():
    """So the design's own example reads naturally: bn1 listed, its BatchNorm personal."""
    model = torchvision_models.resnet18(weights=None)
    found = owners(
        model,
        pretrained=["conv1", "bn1", "layer1", "layer2", "layer3"],
        common=["layer4"],
        task=["fc"],
        personal=["type:BatchNorm2d"],
    )
    assert found["bn1.weight"] == "personal"
    assert found["layer1.0.conv1.weight"] == "pretrained"


# -- what is refused -----------------------------------------------------------------------------


def test_an_uncovered_tensor_is_named():
    refused("no group covers 'block.a.weight'", common=["conv1", "head"])
    refused("no group covers 'conv1.weight'")


def test_an_entry_that_matches_nothing_is_named_with_the_nearest():
    refused("'con1' matches no tensor.* 'conv1'", common=["...", "con1"])
    refused("'hea' matches no tensor.* 'head'", common=["...", "hea"])
    refused("'head.out.weights' matches no.*'head.out.weight'", common=["...", "head.out.weights"])
    refused(r"'layer4\.\*' matches no tensor", common=["...", "layer4.*"])
    refused("'' matches no tensor", common=["...", ""])
    refused("'conv1.' matches no tensor", common=["...", "conv1."])


@pytest.mark.parametrize(
    "entry", ["BatchNorm3d", "BatchNormal2d", "ReLU", "functional", "", "Tensor"]
)
def test_a_type_the_model_lacks_is_refused_with_those_it_has(entry):
    refused(
        f"'type:{entry}' matches no layer; the model has "
        "type:BatchNorm2d, type:Conv2d, type:Linear$",
        common=["...", f"type:{entry}"],
    )


def test_an_entry_in_two_groups_is_refused():
    refused("'head' is in two groups: common and task", common=["...", "head"], task=["head"])
    refused("'...' is in two groups: common and personal", common=["..."], personal=["..."])


def test_a_tie_between_two_groups_is_refused():
    refused(
        r"'head.\?' \(common\) and 'hea\*.0' \(task\) match 'head.0.weight' equally well",
        common=["head.?", "..."],
        task=["hea*.0"],
    )
    refused(
        r"'type:BatchNorm2d' .common. and 'type:Module' .*match 'block.bn.weight' equally",
        common=["type:BatchNorm2d"],
        task=["type:Module"],
    )


def test_a_tie_within_a_group_is_none():
    assert owners(common=["..."], task=["head.?", "hea*.0"])["head.0.weight"] == "task"


def test_a_tie_that_something_stronger_decides_is_none():
    found = owners(common=["...", "head.?"], task=["hea*.0"], personal=["type:Linear"])
    assert found["head.0.weight"] == "personal"


def test_an_unknown_group_is_refused_with_those_there_are():
    refused("'comon'; there are pretrained, common, task, personal", comon=["..."])


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("conv1", r"groups.common must be a list such as \[layer4\], not 'conv1'"),
        (None, "groups.common must be a list"),
        ({"conv1": 1}, "groups.common must be a list"),
        ([0], "groups.common: 0 is no text; write '0'"),
        ([None], "groups.common: None is no text"),
        ([["conv1"]], "groups.common: .* is no text"),
    ],
)
def test_entries_must_be_lists_of_text(listed, said):
    refused(said, common=listed)


def test_tied_tensors_must_be_in_one_group():
    shared = nn.Linear(2, 2)
    model = chain(a=shared, b=nn.ReLU(), c=shared)
    refused("'a.weight' and 'c.weight' are one tensor", model, common=["a"], task=["c"])
    assert set(owners(model, common=["a", "c"]).values()) == {"common"}
    model = chain(a=nn.Linear(2, 2), c=nn.Linear(2, 2))
    model.c.weight = model.a.weight
    refused("'a.weight' and 'c.weight' are one tensor", model, common=["a"], task=["c"])


# -- properties over arbitrary partitions --------------------------------------------------------

PATHS = sorted({".".join(n.split(".")[:k]) for n in NAMES for k in range(1, n.count(".") + 2)})
ENTRIES = st.sampled_from(
    [
        *(*PATHS, "...", "*", "*.weight", "*.bias", "head.*", "block.?n", "nothing"),
        *("type:Conv2d", "type:BatchNorm2d", "type:Linear", "type:Module", "type:RNN"),
    ]
)
PARTITIONS = st.dictionaries(st.sampled_from(list(FOUR_GROUPS)), st.lists(ENTRIES, max_size=4))


@given(PARTITIONS, st.booleans())
def test_each_tensor_is_in_exactly_one_group_or_it_is_an_error(entries, rest):
    if rest and not any("..." in listed for listed in entries.values()):
        entries = {**entries, "common": [*entries.get("common", []), "..."]}
    try:
        found = partition_tensors(MODEL, entries)
    except PartitionError as error:
        said = str(error)
        at_fault = [*NAMES, *(entry for listed in entries.values() for entry in listed)]
        assert any(repr(name) in said for name in at_fault)
        return
    assert list(found.group_of) == NAMES == list(found.specs)
    assert sorted(n for group in found.groups for n in found.names(group)) == sorted(NAMES)
    sent = [n for group in found.groups for n in found.exchanged_names(group)]
    frozen = found.names("pretrained")
    assert sorted([*sent, *found.kept_names(), *frozen]) == sorted(NAMES)
    assert not any("num_batches_tracked" in n for n in sent)
    assert sum(row.tensors for row in found.summary()) == len(NAMES)


@given(st.dictionaries(st.sampled_from(PATHS), st.sampled_from(list(FOUR_GROUPS)), max_size=6))
def test_of_paths_the_longest_that_leads_to_a_tensor_decides(group_of_path):
    entries = {g: [p for p, own in group_of_path.items() if own == g] for g in FOUR_GROUPS}
    entries["task"].append("...")
    for name, group in owners(**entries).items():
        above = [p for p in group_of_path if f"{name}.".startswith(f"{p}.")]
        assert group == (group_of_path[max(above, key=len)] if above else "task")


@given(
    st.permutations(
        [
            (g, e)
            for g, e in [
                ("common", "conv1"),
                ("common", "block"),
                ("personal", "block.bn"),
                ("task", "..."),
                ("task", "*.bias"),
                ("personal", "head.o*"),
                ("common", "type:Conv2d"),
            ]
        ]
    )
)
def test_the_order_of_entries_does_not_matter(pairs):
    entries = {}
    for group, entry in pairs:
        entries.setdefault(group, []).append(entry)
    assert list(owners(**entries).values()) == [
        *("common", "common"),  # conv1, by its type
        *("common", "common"),  # block.a, by its type
        *("personal", "task", "personal", "personal", "personal"),  # block.bn, its bias by glob
        *("task", "task", "personal", "personal"),  # head.o* is longer than *.bias
    ]


# -- what a partition says -----------------------------------------------------------------------


@pytest.fixture
def four():
    return partition_tensors(
        MODEL,
        {
            "pretrained": ["conv1"],
            "common": ["block"],
            "task": ["head.0"],
            "personal": ["head.out"],
        },
    )


def test_scopes_decide_what_is_trained_and_what_leaves():
    assert [g.trained for g in (PRETRAINED, COMMON, TASK, PERSONAL)] == [False, True, True, True]
    assert [g.exchanged for g in (PRETRAINED, COMMON, TASK, PERSONAL)] == [False, True, True, False]


def test_only_floats_of_exchanged_groups_leave(four):
    assert four.exchanged_names("pretrained") == four.exchanged_names("personal") == ()
    assert four.exchanged_names("common") == (
        *("block.a.weight", "block.a.bias"),
        *(f"block.bn.{what}" for what in ("weight", "bias", "running_mean", "running_var")),
    )
    assert four.exchanged_groups() == ("common", "task")


def test_a_site_keeps_what_is_personal_and_the_counters_of_the_rest(four):
    assert four.kept_names() == (
        *("block.bn.num_batches_tracked", "head.out.weight", "head.out.bias"),
    )


def test_a_group_that_exchanges_nothing_is_no_exchanged_group():
    found = partition_tensors(
        MODEL, {"personal": ["..."], "task": ["block.bn.num_batches_tracked"]}
    )
    assert found.exchanged_groups() == ()


def test_half_precision_is_exchanged_too():
    found = partition_tensors(nn.Linear(2, 2).bfloat16(), {"common": ["..."]})
    assert found.exchanged_names("common") == ("weight", "bias")
    assert found.specs["weight"] == TensorSpec((2, 2), "bfloat16")


def test_specs_have_shape_and_dtype(four):
    assert four.specs["head.0.weight"] == TensorSpec((3, 2), "float32")
    assert four.specs["block.bn.num_batches_tracked"] == TensorSpec((), "int64")
    assert four.schema("task") == {
        "head.0.weight": TensorSpec((3, 2), "float32"),
        "head.0.bias": TensorSpec((3,), "float32"),
    }


def test_the_summary_counts_tensors_elements_and_bytes(four):
    rows = {row.group: row for row in four.summary()}
    assert list(rows) == ["pretrained", "common", "task", "personal"]
    common = rows["common"]  # 1x1 convolution 2*2+2, BatchNorm 4*2 and an int64 counter
    assert (common.tensors, common.parameters, common.bytes) == (7, 15, 14 * 4 + 8)
    assert (common.trained, common.sent_to) == (True, "all sites")
    assert rows["task"].sent_to == "sites of the same task"
    assert not rows["pretrained"].trained


def test_a_group_of_a_methods_own_can_be_added():
    groups = {**FOUR_GROUPS, "in_cohort": Group("in_cohort", Scope.ALL_SITES)}
    found = partition_tensors(MODEL, {"in_cohort": ["head"], "common": ["..."]}, groups)
    assert found.exchanged_groups() == ("common", "in_cohort")


def test_asking_for_an_unknown_group_is_an_error(four):
    with pytest.raises(PartitionError, match="no layer group 'commons'; there are pretrained"):
        four.names("commons")


# -- fingerprints --------------------------------------------------------------------------------


def with_specs(specs):
    return Partition(dict.fromkeys(specs, "common"), specs, FOUR_GROUPS)


SPECS = st.dictionaries(
    st.text("ab.", min_size=1, max_size=3),
    st.builds(
        TensorSpec,
        st.lists(st.integers(0, 12), max_size=3).map(tuple),
        st.sampled_from(["float32", "float16", "float64"]),
    ),
    min_size=1,
    max_size=4,
)


@given(SPECS, SPECS)
def test_fingerprints_are_equal_just_where_schemas_are(one, other):
    equal = with_specs(one).fingerprint("common") == with_specs(other).fingerprint("common")
    assert equal == (one == other)
    reordered = dict(reversed(list(one.items())))
    assert with_specs(reordered).fingerprint("common") == with_specs(one).fingerprint("common")


def test_the_fingerprint_changes_with_a_shape_and_not_with_values():
    entries = {"common": ["..."]}
    prints = {
        size: partition_tensors(nn.Linear(size, 2), entries).fingerprint("common")
        for size in (2, 3, 2, 4)
    }
    assert len(set(prints.values())) == 3
    assert prints[2] == partition_tensors(nn.Linear(2, 2), entries).fingerprint("common")
    assert len(prints[2]) == 64


def test_the_fingerprint_ignores_what_is_not_exchanged(four):
    narrower = two_blocks()
    narrower.head.out = nn.Linear(3, 9)
    other = partition_tensors(
        narrower,
        {
            "pretrained": ["conv1"],
            "common": ["block"],
            "task": ["head.0"],
            "personal": ["head.out"],
        },
    )
    for group in ("common", "task"):
        assert other.fingerprint(group) == four.fingerprint(group)


# -- training ------------------------------------------------------------------------------------


def test_gradients_reach_trained_groups_only(four):
    model = two_blocks()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    freeze(model, four)
    wanted = {n for n, p in model.named_parameters() if p.requires_grad}
    assert wanted == {n for n, _ in model.named_parameters() if not n.startswith("conv1.")}


def test_a_frozen_batchnorm_keeps_its_statistics_and_a_trained_one_does_not():
    model = chain(
        first=nn.BatchNorm1d(3),
        fc=nn.Linear(3, 3),
        second=nn.BatchNorm1d(3),
        third=nn.BatchNorm1d(3),
    )
    found = partition_tensors(model, {"pretrained": ["first", "third"], "common": ["..."]})
    model.eval()
    set_train_mode(model, found)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(5 + torch.randn(8, 3))
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"second.{what}" for what in buffers}


def test_dropout_is_off_between_frozen_layers_and_on_behind_them():
    model = chain(
        a=nn.Linear(3, 3),
        inside=nn.Dropout(),
        b=nn.Linear(3, 3),
        behind=nn.Dropout(),
        c=nn.Linear(3, 3),
    )
    found = partition_tensors(model, {"pretrained": ["a", "b"], "common": ["c"]})
    set_train_mode(model, found)
    training = {name: child.training for name, child in model.named_children()}
    assert training == {"a": False, "inside": False, "b": False, "behind": True, "c": True}


def test_the_train_mode_is_that_of_the_chain_in_any_module_that_holds_its_children():
    chained = chain(a=nn.Linear(3, 3), inside=nn.Dropout(), b=nn.Linear(3, 3), c=nn.Linear(3, 3))
    holder = nn.Module()
    for name, child in chained.named_children():
        holder.add_module(name, child)
    set_train_mode(holder, partition_tensors(holder, {"pretrained": ["a", "b"], "common": ["c"]}))
    assert not holder.inside.training
    assert holder.c.training


def test_a_trained_module_inside_a_partly_frozen_one_is_in_train_mode():
    model = chain(fc=nn.Linear(4, 4), attention=nn.MultiheadAttention(4, 2))
    frozen = ["attention.in_proj_weight", "attention.in_proj_bias"]
    found = partition_tensors(model, {"pretrained": frozen, "common": ["..."]})
    set_train_mode(model, found)
    assert not model.attention.training
    assert model.attention.out_proj.training


def test_train_mode_and_freezing_work_on_the_tail_of_a_cut_network(four):
    tail = chain(block=MODEL.block, head=MODEL.head)
    freeze(tail, four)
    set_train_mode(tail, four)
    assert all(module.training for module in tail.modules())


def test_knowledge_is_sent_and_not_trained() -> None:
    groups = {**FOUR_GROUPS, "means": Group("means", Scope.ALL_SITES, knowledge=True)}
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("mean", torch.zeros(2))
    rows = partition_tensors(model, {"common": ["0"], "means": ["mean"]}, groups).summary()
    told = {row.group: (row.trained, row.sent_to) for row in rows if row.tensors}
    assert told == {"common": (True, "all sites"), "means": (False, "all sites")}
