"""What leaves a site: the allowed layers and a report, made anew; everything else is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedstrata.protocol import answers, codec, kinds, limits, orders
from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.codings import read_codings
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.payload import encode
from fedstrata.protocol.sums import ColumnSums, SumsReport
from site_guard.answers import AnswerFilter
from site_guard.settings import SiteSettings

HERE = SiteSettings(site="a", task="gender", state="/s", cache="/c", share=("common", "task"))
COMMON = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}
TASK = {"head.weight": torch.ones(4)}
METRICS = {
    split: {"examples": 2.0, "loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None}
    for split in answers.MEASURED
}
ROUND = RoundReport("a", 3, 10, 4, 4, 0.5, 1.0, METRICS, "", numerics=Numerics(1))
WHO = SiteReport(
    "a",
    "gender",
    ("no", "yes"),
    (3, 8, 8),
    {"train": 10, "validation": 2, "test": 2},
    {"accuracy": 0.5},
    {"common": "0" * 64, "task": "1" * 64},
    {
        "common": {"conv.weight": "float32[2,3]", "conv.bias": "float32[2]"},
        "task": {"head.weight": "float32[4]"},
    },
    True,
    "cpu",
    {"torch": "2.11.0+cu130"},
    "",
)


def order(kind: str = kinds.TRAIN, **layers: Mapping[str, Tensor]) -> Message:
    payloads = {group: kinds.payload_array(encode(tensors)) for group, tensors in layers.items()}
    return orders.order(kind, 7, plan="{}", round_number=3, layers=payloads, ttl=60.0)


def leaving(keeper: AnswerFilter, asked: Message, answer: Message) -> Message:
    """Return what leaves for an order, which is checked first as the guard does."""
    return keeper.filter_answer(asked, answer, keeper.check_order(asked))


def answered(asked: Message, report: Any = ROUND, **layers: bytes) -> Message:
    return answers.answer(asked, report, layers)


def trained() -> tuple[Message, dict[str, bytes]]:
    asked = order(common=COMMON, task=TASK)
    new = {name: tensor + 1 for name, tensor in COMMON.items()}
    return asked, {"common": encode(new), "task": encode(TASK)}


def test_layers_for_a_table_travel_exactly_whatever_the_plan_codes() -> None:
    payloads = {"common": kinds.payload_array(encode(COMMON))}
    plan = json.dumps({"coding": {"common": INT8}, "coding_down": {}})
    asked = orders.order(kinds.CROSS, 7, plan=plan, round_number=3, layers=payloads, ttl=60.0)
    left = leaving(AnswerFilter(HERE), asked, answered(asked, common=encode(COMMON)))
    assert answers.read_payloads(left) == {"common": encode(COMMON)}
    with pytest.raises(Refused, match="did not ask for"):
        leaving(AnswerFilter(HERE), asked, answered(asked, task=encode(TASK)))


def test_an_honest_answer_leaves_as_it_is() -> None:
    asked, layers = trained()
    left = leaving(AnswerFilter(HERE), asked, answered(asked, **layers))
    assert answers.read_payloads(left) == layers
    assert answers.read_round_report(left) == ROUND


def test_what_the_site_computed_with_leaves_as_numbers_alone() -> None:
    asked, layers = trained()
    computed = replace(ROUND, numerics=Numerics(2, 1, 3, 1))
    answer = answered(asked, computed, **layers)
    report = json.loads(str(answer.content["report"]["json"]))
    report["numerics"]["note"] = "Jane Doe"
    answer.content["report"] = ConfigRecord({"json": json.dumps(report)})
    left = leaving(AnswerFilter(HERE), asked, answer)
    assert answers.read_round_report(left) == computed
    assert "Jane" not in str(left.content["report"]["json"])
    report["numerics"] = {"threads": 10**50}
    answer.content["report"] = ConfigRecord({"json": json.dumps(report)})
    with pytest.raises(Refused, match="numerics"):
        leaving(AnswerFilter(HERE), asked, answer)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"personal": encode({"head.out": torch.ones(2)})}, "'personal', and this site shares"),
        ({"common": encode({**COMMON, "head.out": torch.ones(2)})}, "'head.out'"),
        ({"common": encode({"conv.bias": torch.ones(2)})}, "does not send 'conv.weight'"),
        ({"common": encode({**COMMON, "conv.bias": torch.ones(3)})}, "'conv.bias' as"),
        ({"common": encode({**COMMON, "conv.bias": torch.ones(2).double()})}, "F64"),
        ({"task": b"1234"}, "no safetensors"),
    ],
)
def test_anything_besides_the_layers_asked_for_is_refused(
    extra: dict[str, bytes], reason: str
) -> None:
    asked, layers = trained()
    with pytest.raises(Refused, match=reason):
        leaving(AnswerFilter(HERE), asked, answered(asked, **layers | extra))


def test_another_tasks_group_is_refused_where_it_was_not_asked_for() -> None:
    asked = order(common=COMMON)
    layers = {"common": encode(COMMON), "task": encode(TASK)}
    with pytest.raises(Refused, match="did not ask for"):
        leaving(AnswerFilter(HERE), asked, answered(asked, **layers))


def test_a_site_that_shares_less_refuses_before_training() -> None:
    keeper = AnswerFilter(replace_settings(share=("common",)))
    with pytest.raises(Refused, match="'task', and this site shares common"):
        keeper.check_order(order(common=COMMON, task=TASK))
    keeper.check_order(order(common=COMMON))
    asked = order(kinds.QUERY)
    with pytest.raises(Refused, match="'task', and this site shares common"):
        leaving(keeper, asked, answered(asked, WHO))


def test_knowledge_leaves_only_where_the_site_names_it() -> None:
    means = {"extras.mean": torch.ones(4)}
    with pytest.raises(Refused, match="'means', and this site shares common and task"):
        AnswerFilter(HERE).check_order(order(common=COMMON, means=means))
    keeper = AnswerFilter(replace_settings(share=("common", "means")))
    asked = order(kinds.OPEN, common=COMMON, means=means)
    left = leaving(keeper, asked, answered(asked, means=encode(means)))
    assert set(answers.read_payloads(left)) == {"means"}


def test_what_goes_down_only_arrives_and_never_leaves() -> None:
    head = {"head.out.weight": torch.ones(4)}
    keeper = AnswerFilter(replace_settings(share=("common",), keep=("head.out",)))
    query = order(kinds.QUERY)
    announced = {"common": WHO.schemas["common"], "global_head": {"head.out.weight": "float32[4]"}}
    said = replace(WHO, schemas=announced, fingerprints=dict.fromkeys(announced, "0" * 64))
    leaving(keeper, query, answered(query, said))
    asked = order(common=COMMON, global_head=head)
    requested = keeper.check_order(asked)
    assert set(requested.schemas) == {"common"}
    left = leaving(keeper, asked, answered(asked, common=encode(COMMON)))
    assert set(answers.read_payloads(left)) == {"common"}
    with pytest.raises(Refused, match="'global_head', and this site shares common"):
        leaving(keeper, asked, answered(asked, common=encode(COMMON), global_head=encode(head)))
    with pytest.raises(Refused, match=r"another shape or dtype of 'head\.out\.weight'"):
        keeper.check_order(order(global_head={"head.out.weight": torch.ones(5)}))


def test_a_run_is_opened_once_and_again_only_with_the_same_layers() -> None:
    keeper = AnswerFilter(HERE)
    keeper.check_order(order(kinds.OPEN, common=COMMON))
    keeper.check_order(order(kinds.OPEN, common=COMMON))
    other = {name: tensor + 1 for name, tensor in COMMON.items()}
    with pytest.raises(Refused, match="opens the run again with other layers"):
        keeper.check_order(order(kinds.OPEN, common=other))
    planned = orders.order(
        kinds.OPEN,
        7,
        plan='{"seed": 2}',
        round_number=3,
        layers={"common": kinds.payload_array(encode(COMMON))},
        ttl=60.0,
    )
    with pytest.raises(Refused, match="or another plan, and once is enough"):
        keeper.check_order(planned)


def test_an_order_to_train_on_the_data_of_all_sites_is_refused_before_any_work() -> None:
    with pytest.raises(Refused, match="needs the data of all sites, which stay there"):
        AnswerFilter(HERE).check_order(order(kinds.POOLED))


@pytest.mark.parametrize("kind", ["train.default", "evaluate.other", "query.more"])
def test_an_unknown_kind_of_order_is_refused_before_any_work(kind: str) -> None:
    """Flower's app would take the first for training, past the site's hours and what it shares."""
    with pytest.raises(Refused, match=f"asks for '{kind}', which is unknown here"):
        AnswerFilter(HERE).check_order(order(kind, common=COMMON, secret=TASK))


def test_tensors_in_keep_are_refused_by_name_in_any_group() -> None:
    keeper = AnswerFilter(replace_settings(keep=("conv",)))
    with pytest.raises(Refused, match=r"'conv\.bias', 'conv\.weight' in the group 'common'"):
        keeper.check_order(order(common=COMMON))
    asked = order(kinds.QUERY)
    with pytest.raises(Refused, match="may never leave"):
        leaving(keeper, asked, answered(asked, WHO))


def test_only_classes_of_the_sites_list_leave() -> None:
    asked = order(kinds.QUERY)
    keeper = AnswerFilter(replace_settings(classes=("maybe", "no", "yes")))
    left = answers.read_site_report(leaving(keeper, asked, answered(asked, WHO)))
    assert left.classes == WHO.classes
    keeper = AnswerFilter(replace_settings(classes=("no", "yes")))
    with pytest.raises(Refused, match="names 1 classes that `classes`") as refused:
        leaving(keeper, asked, answered(asked, replace(WHO, classes=("Jane Doe", "yes"))))
    assert "Jane" not in str(refused.value)


def replace_settings(**changes: Any) -> SiteSettings:
    import msgspec

    return msgspec.structs.replace(HERE, **changes)


def test_nothing_hides_in_the_header_of_a_payload() -> None:
    asked, layers = trained()
    hidden = safetensors.torch.save(COMMON, metadata={"patient": "Jane Doe"})
    assert b"Jane Doe" in hidden
    left = leaving(AnswerFilter(HERE), asked, answered(asked, **layers | {"common": hidden}))
    sent = answers.read_payloads(left)["common"]
    assert b"Jane" not in sent
    assert sent == encode(COMMON)


def test_nothing_hides_in_records_or_reports() -> None:
    asked, layers = trained()
    more = answered(asked, **layers)
    more.content["notes"] = ConfigRecord({"patient": "Jane Doe"})
    with pytest.raises(Refused, match="notes"):
        leaving(AnswerFilter(HERE), asked, more)
    entries = asdict(ROUND) | {"patient": "Jane Doe"}
    content = RecordDict(
        {"report": ConfigRecord({"json": json.dumps(entries)}), "layers": ArrayRecord({})}
    )
    with pytest.raises(Refused, match="patient"):
        leaving(AnswerFilter(HERE), asked, Message(content, reply_to=asked))
    padded = RecordDict({"report": ConfigRecord({"json": json.dumps(asdict(ROUND)) + " " * 9000})})
    with pytest.raises(Refused, match="characters"):
        leaving(AnswerFilter(HERE), asked, Message(padded, reply_to=asked))


def test_a_long_reason_in_other_letters_leaves_as_it_is() -> None:
    asked = order(common=COMMON)
    reason = "Verzeichnis für Ärzte nicht lesbar, \udcff, 🏥 " * 100
    failed = answers.failure(asked, "a", 3, reason)
    left = leaving(AnswerFilter(HERE), asked, Message(failed.content, reply_to=asked))
    error = answers.read_round_report(left).error
    assert len(error) == limits.MOST_REASON_CHARACTERS
    assert error.startswith("Verzeichnis für Ärzte nicht lesbar, ?, 🏥 ")


@pytest.mark.parametrize("errors", ["full", "brief"])
def test_that_a_site_diverged_leaves_it_whatever_its_errors_say(errors: str) -> None:
    asked = order(common=COMMON)
    keeper = AnswerFilter(msgspec.structs.replace(HERE, errors=errors))
    failed = answers.failure(asked, "a", 3, "the loss became nan", diverged=True)
    left = leaving(keeper, asked, Message(failed.content, reply_to=asked))
    assert answers.read_round_report(left).diverged


def test_an_error_carries_its_reason_and_nothing_else() -> None:
    asked = order(kinds.QUERY)
    changed = replace(WHO, error="no data", classes=("Jane", "Doe"))
    left = answers.read_site_report(leaving(AnswerFilter(HERE), asked, answered(asked, changed)))
    assert (left.error, left.classes, left.site) == ("no data", (), "a")
    asked, layers = trained()
    with pytest.raises(Refused, match="layers that nobody asked for"):
        leaving(AnswerFilter(HERE), asked, answered(asked, replace(ROUND, error="no"), **layers))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "b"}, "speaks as 'b'"),
        ({"task": "age"}, "'age', and this site's is 'gender'"),
        ({"versions": {"torch": "Jane\nDoe"}}, "must be printable"),
        ({"device": "Jane Doe"}, "neither cpu nor cuda"),
        ({"fingerprints": {}}, "fingerprints"),
        ({"schemas": {"common": {"Jane Doe": "float32[1]"}, "task": {}}}, "'Jane Doe'"),
        ({"schemas": {"common": {"a": "Jane[1]"}, "task": {}}}, r"Jane\[1\]"),
        ({"schemas": {"common": {"a": "float32[1,,2]"}, "task": {}}}, "describes 'a'"),
        ({"schemas": {"common": {"a": "float32[4294967296]"}, "task": {}}}, "4294967296"),
        ({"schemas": {"common": {f"a{n}": "bool[]" for n in range(3000)}, "task": {}}}, "3000"),
        ({"input_shape": (1,) * 9}, "the shape of one input"),
        ({"input_shape": (-1,)}, "the shape of one input"),
        ({"classes": tuple(str(n) for n in range(2000))}, "2000 classes"),
        ({"classes": tuple(f"{n:0100}" for n in range(200))}, "20000 characters"),
    ],
)
def test_a_wrong_site_report_is_refused_with_its_reason(
    changes: dict[str, Any], reason: str
) -> None:
    asked = order(kinds.QUERY)
    with pytest.raises(Refused, match=reason):
        leaving(AnswerFilter(HERE), asked, answered(asked, replace(WHO, **changes)))


def test_the_first_report_binds_the_app_for_the_run() -> None:
    keeper = AnswerFilter(HERE)
    asked = order(kinds.QUERY)
    left = answers.read_site_report(leaving(keeper, asked, answered(asked, WHO)))
    assert left.schemas["common"]["conv.weight"] == "float32[2, 3]"
    leaving(keeper, asked, answered(asked, replace(WHO, holds_weights=False)))
    with pytest.raises(Refused, match="other classes"):
        leaving(keeper, asked, answered(asked, replace(WHO, classes=("Jane", "Doe"))))
    renamed = {"common": {"jane.doe": "float32[2]"}, "task": {}}
    with pytest.raises(Refused, match="other layers"):
        leaving(keeper, asked, answered(asked, replace(WHO, schemas=renamed)))
    method = orders.order(kinds.QUERY, 7, plan='{"other": 1}', round_number=0, layers={}, ttl=60.0)
    leaving(keeper, method, answered(method, replace(WHO, schemas=renamed)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 4}, "answers round 4, and the order is 3"),
        ({"examples": 1 << 40}, "examples is"),
        ({"steps": -1}, "steps is -1"),
        ({"planned": 10**50}, "planned is"),
        ({"loss": float("inf")}, "loss"),
        ({"seconds": float("nan")}, "seconds"),
    ],
)
def test_counts_out_of_range_are_refused(changes: dict[str, Any], reason: str) -> None:
    asked, layers = trained()
    with pytest.raises(Refused, match=reason):
        leaving(AnswerFilter(HERE), asked, answered(asked, replace(ROUND, **changes), **layers))


TEXT = st.text(max_size=300) | st.from_regex(r"[a-z.]{1,250}", fullmatch=True)
SPEC = st.from_regex(r"(float32|u?int8|x)\[[0-9, ]{0,30}\]", fullmatch=True) | st.text(max_size=9)
FREE = st.fixed_dictionaries(
    {},
    optional={
        "classes": st.lists(TEXT, max_size=80).map(tuple),
        "input_shape": st.lists(st.integers(), max_size=12).map(tuple),
        "fingerprints": st.fixed_dictionaries({"common": st.just("0" * 64) | TEXT}),
        "schemas": st.fixed_dictionaries({"common": st.dictionaries(TEXT, SPEC, max_size=80)}),
        "device": TEXT,
        "versions": st.dictionaries(TEXT, TEXT, max_size=20),
        "examples": st.dictionaries(TEXT, st.integers(), max_size=4),
        "error": TEXT,
    },
)


@given(changes=FREE, times=st.integers(1, 60))
def test_little_of_what_the_app_writes_can_leave(changes: dict[str, Any], times: int) -> None:
    changed = replace(WHO, fingerprints={"common": "0" * 64}, schemas={"common": {}})
    changed = replace(changed, **changes)
    repeated = {
        f"{name}{n}": text for name, text in changed.schemas["common"].items() for n in range(times)
    }
    changed = replace(changed, schemas={"common": repeated}, classes=changed.classes * times)
    asked = order(kinds.QUERY)
    try:
        left = answers.read_site_report(
            leaving(AnswerFilter(HERE), asked, answered(asked, changed))
        )
    except Refused:
        return
    assert left.device in ("cpu", "cuda", "")
    assert left.error or left.versions.keys() == {"python", "torch", "flwr"}
    assert len(left.error) <= limits.MOST_REASON_CHARACTERS
    assert sum(map(len, left.classes)) <= 10_000
    assert sum(map(len, left.schemas.get("common", {}))) <= 60_000
    for name, spec in left.schemas.get("common", {}).items():
        assert name.isascii()
        assert sum(character.isdigit() for character in spec.partition("[")[2]) <= 80
    assert len(left.input_shape) <= 8


def test_a_tensor_that_was_not_announced_is_refused() -> None:
    keeper = AnswerFilter(HERE)
    asked = order(kinds.QUERY)
    leaving(keeper, asked, answered(asked, WHO))
    larger = {**COMMON, "head.out": torch.ones(2)}
    asked = order(common=larger, task=TASK)
    layers = {"common": encode(larger), "task": encode(TASK)}
    with pytest.raises(Refused, match=r"'head\.out' of 'common', which the app did not announce"):
        leaving(keeper, asked, answered(asked, **layers))


# Coded layers ------------------------------------------------------------------------------------

INT8 = {"name": "int8", "per_channel": False}
TOPK = {"name": "topk", "fraction": 0.5, "values": "bfloat16", "least": 0}
FORMS = {"conv.weight": "float32[2, 3]", "conv.bias": "float32[2]"}
MARK = torch.empty(0, dtype=torch.uint8)


def coded_order(
    coding: Any, *, down: bool = False, tensors: Mapping[str, str] = FORMS
) -> tuple[Message, Message]:
    """Return an order whose answer is to be coded, and a query of the same plan."""
    plan = json.dumps({"coding": {"common": coding}})
    layers = {"common": kinds.payload_array(encode(COMMON))}
    coded = None
    if down:
        layers = {"common/0": kinds.payload_array(encode({"conv.weight/unchanged": MARK}))}
        coded = {"common": orders.CodedGroup("a" * 64, "b" * 64, 1, dict(tensors))}
    message = orders.order(
        kinds.TRAIN, 7, plan=plan, round_number=3, layers=layers, ttl=60.0, coded=coded
    )
    return message, orders.order(kinds.QUERY, 7, plan=plan, round_number=0, layers={}, ttl=60.0)


def coded(coding: Any, **changes: Tensor | None) -> bytes:
    """Return an update of COMMON, coded, with these arrays besides or, where None, without them."""
    new = {name: tensor + torch.rand_like(tensor) for name, tensor in COMMON.items()}
    data, _ = codec.encode(read_codings({"common": coding}, {}).up["common"], new, COMMON, {})
    arrays = safetensors.torch.load(data)
    for name, tensor in changes.items():
        arrays.pop(name, None)
        if tensor is not None:
            arrays[name] = tensor
    return encode(arrays)


@pytest.mark.parametrize("coding", [INT8, TOPK, {"name": "bfloat16"}, {"name": "float16"}])
@pytest.mark.parametrize("down", [False, True])
def test_honest_coded_layers_leave_as_they_are(coding: Any, down: bool) -> None:
    keeper = AnswerFilter(HERE)
    asked, query = coded_order(coding, down=down)
    leaving(keeper, query, answered(query, WHO))
    keeper.check_order(asked)
    for data in (coded(coding), unchanged_bias(coding)):
        left = leaving(keeper, asked, answered(asked, common=data))
        assert answers.read_payloads(left) == {"common": data}


@pytest.mark.parametrize(
    "coding", [INT8, TOPK, {**TOPK, "fraction": 1.0, "values": "float32"}, {"name": "exact"}]
)
@pytest.mark.parametrize("down", [False, True])
def test_an_answer_may_be_as_large_as_what_was_asked_for(coding: Any, down: bool) -> None:
    large = {"conv.weight": torch.zeros(300, 400)}
    tensors = {"conv.weight": "float32[300, 400]"}
    asked, query = coded_order(coding, down=down, tensors=tensors)
    if not down:
        asked.content["layers"] = ArrayRecord({"common": kinds.payload_array(encode(large))})
    most = AnswerFilter(HERE).check_order(asked).most_bytes
    how = read_codings({"common": coding}, {}).up["common"]
    new = {"conv.weight": torch.randn(300, 400)}
    written, _ = codec.encode(how, new, large, {})
    header = 8 + int.from_bytes(written[:8], "little")
    assert most == len(written) - header
    assert AnswerFilter(HERE).check_order(query).most_bytes == 0


def test_an_order_that_claims_too_much_is_refused() -> None:
    huge = {"conv.weight": "float32[2147483647, 2]"}
    asked, _ = coded_order(INT8, down=True, tensors=huge)
    with pytest.raises(Refused, match="the order is about 17179869176 bytes, and"):
        AnswerFilter(HERE).check_order(asked)


def unchanged_bias(coding: Any) -> bytes:
    new = {**COMMON, "conv.weight": COMMON["conv.weight"] + 1}
    return codec.encode(read_codings({"c": coding}, {}).up["c"], new, COMMON, {})[0]


def bytes_of(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("coding", "changes", "reason"),
    [
        (INT8, {"head.out": bytes_of(2)}, "'head.out' in the group 'common', which are not of it"),
        (INT8, {"head.out/scale": torch.ones(())}, "'head.out/scale'"),
        (INT8, {"conv.weight/note": bytes_of(9)}, "'conv.weight/note'"),
        (INT8, {"conv.weight": None}, "does not send 'conv.weight'"),
        (INT8, {"conv.weight/scale": None}, "does not send 'conv.weight/scale'"),
        (INT8, {"conv.weight": torch.ones(2, 3)}, "'conv.weight' as .*F32"),
        (INT8, {"conv.weight": torch.ones(99, 3).char()}, "'conv.weight' as .*99"),
        (INT8, {"conv.weight/scale": torch.ones(1000)}, "'conv.weight/scale' as .*1000"),
        (INT8, {"conv.weight/unchanged": bytes_of(0)}, "'conv.weight'.*not of it"),
        (INT8, {"head.out/unchanged": bytes_of(0)}, "'head.out/unchanged'"),
        (TOPK, {"conv.weight/values": torch.ones(4).bfloat16()}, "'conv.weight/values' as"),
        (TOPK, {"conv.weight/indices": bytes_of(200)}, "'conv.weight/indices' as .*200"),
        (TOPK, {"conv.weight": torch.ones(2, 3)}, "'conv.weight'.*not of it"),
        ({"name": "exact"}, {"conv.bias/unchanged": bytes_of(1), "conv.bias": None}, "as .*1"),
    ],
)
@pytest.mark.parametrize("down", [False, True])
def test_nothing_but_the_coded_form_of_what_was_asked_for_leaves(
    coding: Any, changes: dict[str, Tensor | None], reason: str, down: bool
) -> None:
    asked, _ = coded_order(coding, down=down)
    with pytest.raises(Refused, match=reason):
        leaving(AnswerFilter(HERE), asked, answered(asked, common=coded(coding, **changes)))


def test_a_coded_order_asks_for_what_the_site_shares_and_has() -> None:
    asked, query = coded_order(INT8, down=True)
    with pytest.raises(Refused, match=r"'conv\.bias', 'conv\.weight' in the group 'common'"):
        AnswerFilter(replace_settings(keep=("conv",))).check_order(asked)
    with pytest.raises(Refused, match="'common', and this site shares task"):
        AnswerFilter(replace_settings(share=("task",))).check_order(asked)
    keeper = AnswerFilter(HERE)
    leaving(keeper, query, answered(query, WHO))
    larger, _ = coded_order(INT8, down=True, tensors={**FORMS, "conv.bias": "float32[1000000]"})
    with pytest.raises(Refused, match=r"another shape or dtype of 'conv\.bias' than the app"):
        keeper.check_order(larger)
    more, _ = coded_order(INT8, down=True, tensors={**FORMS, "head.out": "float32[2]"})
    with pytest.raises(Refused, match=r"'head\.out' of 'common', which the app did not announce"):
        keeper.check_order(more)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ('{"coding": {"common": {"name": "zip"}}}', "name 'zip' does not exist"),
        ('{"coding": {"common": {"name": "topk", "fraction": 7}}}', "coding is unknown here"),
        ('{"coding": [1]}', "cannot be read"),
        ('{"coding": 5}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("no JSON", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_a_plan_with_an_unknown_coding_is_refused_before_any_work(plan: str, reason: str) -> None:
    layers = {"common": kinds.payload_array(encode(COMMON))}
    asked = orders.order(kinds.TRAIN, 7, plan=plan, round_number=3, layers=layers, ttl=60.0)
    with pytest.raises(Refused, match=reason):
        AnswerFilter(HERE).check_order(asked)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"common": {}}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (json.dumps({"common": asdict(orders.CodedGroup("", "", 99, {}))}), "99 steps"),
        (json.dumps({"common": asdict(orders.CodedGroup("a", "", -1, {}))}), "-1 steps"),
        (json.dumps({"common": asdict(orders.CodedGroup("a", "", 2, {}))}), "are not its 2 steps"),
        (json.dumps({"task": asdict(orders.CodedGroup("", "", 0, {}))}), "in 0 payloads"),
        (
            json.dumps({"common": asdict(orders.CodedGroup("a", "", 1, {"w": "x"}))}),
            "describes a tensor",
        ),
        (
            json.dumps({"common": asdict(orders.CodedGroup("a", "", 1, {"w": "bool[2]"}))}),
            "as 'bool'",
        ),
        (
            json.dumps({"common": asdict(orders.CodedGroup("a", "", 1, {"w": f"int8[{2**40}]"}))}),
            "has the shape",
        ),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    asked, _ = coded_order(INT8, down=True)
    asked.content["order"]["coded"] = text  # type: ignore[index]
    with pytest.raises(Refused, match=reason):
        AnswerFilter(HERE).check_order(asked)


@given(data=st.binary(max_size=200), cut=st.integers(0, 200), at=st.integers(0, 300))
def test_damaged_coded_payloads_are_refused_or_of_the_same_form(
    data: bytes, cut: int, at: int
) -> None:
    asked, _ = coded_order(TOPK, down=True)
    whole = coded(TOPK)
    try:
        left = leaving(
            AnswerFilter(HERE), asked, answered(asked, common=whole[:at] + data + whole[at + cut :])
        )
    except Refused:
        return
    names = set(safetensors.torch.load(answers.read_payloads(left)["common"]))
    parts = {f"{n}/{p}" for n in COMMON for p in ("indices", "values", "unchanged")}
    assert names <= parts
    assert len(answers.read_payloads(left)["common"]) <= len(whole)


def test_known_states_are_of_shared_groups_only() -> None:
    asked = order(kinds.QUERY)
    for wrong in (
        {"personal": ("0" * 64,)},
        {"common": ("Jane Doe",)},
        {"common": ("0" * 64,) * 9},
    ):
        with pytest.raises(Refused, match="known states of"):
            leaving(AnswerFilter(HERE), asked, answered(asked, replace(WHO, known_states=wrong)))


@given(data=st.binary(max_size=300), cut=st.integers(0, 200), at=st.integers(0, 200))
def test_damaged_payloads_are_refused_or_harmless(data: bytes, cut: int, at: int) -> None:
    asked, layers = trained()
    damaged = layers["common"][:at] + data + layers["common"][at + cut :]
    try:
        left = leaving(AnswerFilter(HERE), asked, answered(asked, **layers | {"common": damaged}))
    except Refused:
        return
    sent = safetensors.torch.load(answers.read_payloads(left)["common"])
    assert {name: tensor.shape for name, tensor in sent.items()} == {
        name: tensor.shape for name, tensor in COMMON.items()
    }
    assert len(answers.read_payloads(left)["common"]) == len(layers["common"])


def test_sums_leave_as_they_are_and_alone() -> None:
    asked = order(kinds.SUMS)
    sums = SumsReport("a", ColumnSums((40,), (2.0,), (3.0,)))
    keeper = AnswerFilter(HERE)
    assert answers.read_sums_report(leaving(keeper, asked, answered(asked, sums))) == sums
    with pytest.raises(Refused, match="layers that nobody asked for"):
        leaving(keeper, asked, answered(asked, sums, common=b"x"))


def test_categories_leave_alone_and_only_of_the_columns_asked_for() -> None:
    plan = json.dumps({"data": {"categories": {"cp": "agreed", "sex": ["f", "m"]}}})
    asked = orders.order(kinds.CATEGORIES, 7, plan=plan, round_number=0, layers={}, ttl=60.0)
    named = CategoriesReport("a", {"cp": ("1", "2")})
    keeper = AnswerFilter(HERE)
    assert answers.read_categories_report(leaving(keeper, asked, answered(asked, named))) == named
    with pytest.raises(Refused, match="layers that nobody asked for"):
        leaving(keeper, asked, answered(asked, named, common=b"x"))
    for columns, reason in (
        ({"cp": ("1", "3")}, "other categories than before in this run"),
        ({"sex": ("f",)}, "names categories of 'sex', which the plan has not"),
        ({"cp": ("Doe\n",)}, "is no name"),
    ):
        with pytest.raises(Refused, match=reason):
            leaving(keeper, asked, answered(asked, replace(named, columns=columns)))
