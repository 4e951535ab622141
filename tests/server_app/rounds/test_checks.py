"""No answer reaches an aggregator unless everything about it is right; tried with every wrong one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import answers, codec, kinds, orders
from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.codings import EXACT, read_codings
from fedstrata.protocol.limits import NotFinite, Refused
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.payload import encode
from models.groups import partition_tensors
from models.networks import build
from server_app.rounds.checks import checked_update
from server_app.rounds.contribution import Reference, Update
from server_app.sites.members import Member
from strategies.aggregators import MAX_MAGNITUDE
from strategies.methods import make_method

NETWORK = build("mlp", input_shape=(6,), classes=2, head=[], hidden=[5, 4])
ENTRIES = {"common": ["fc1"], "task": ["fc2"], "personal": ["head"]}
PARTITION = partition_tensors(NETWORK, ENTRIES)
METHOD = make_method({"name": "layers"})
MEMBER = Member(
    7,
    SiteReport(
        "clinic",
        "grade",
        ("low", "high"),
        (6,),
        {"train": 20, "validation": 4, "test": 4},
        {"accuracy": 0.5},
        {},
        {},
        True,
        "cpu",
        {},
        "",
    ),
)
METRIC = {"examples": 4.0, "loss": 0.7, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None}
ERRORS = {"examples": 4.0, "loss": 0.7, "mae": 0.5, "rmse": 0.5, "r2": None}
MEASURED = {"test": METRIC, "validation": METRIC}
GOOD = RoundReport("clinic", 3, 20, 5, 5, 0.7, 1.0, MEASURED, "", numerics=Numerics(1))


GROUPS = ("common", "task")


def asked() -> Message:
    return orders.order(kinds.TRAIN, 7, plan="{}", round_number=3, layers={}, ttl=60)


def layers() -> dict[str, dict[str, torch.Tensor]]:
    state = NETWORK.state_dict()
    return {
        g: {n: state[n].clone() for n in PARTITION.exchanged_names(g)} for g in ("common", "task")
    }


def reply(report: RoundReport, tensors: dict[str, dict[str, torch.Tensor]]) -> Message:
    return answers.answer(asked(), report, {group: encode(t) for group, t in tensors.items()})


def check(message: Message) -> Any:
    references = {group: Reference(EXACT, state, state) for group, state in layers().items()}
    return checked_update(message, MEMBER, 3, PARTITION, METHOD, references, 60.0, GROUPS)


def test_a_site_measures_where_it_was_asked_to_and_nowhere_else() -> None:
    references = {group: Reference(EXACT, state, state) for group, state in layers().items()}
    what = (MEMBER, 3, PARTITION, METHOD, references, 60.0, GROUPS)
    unmeasured = replace(GOOD, metrics={})
    update = checked_update(reply(unmeasured, layers()), *what, measured=False)
    assert update.reports["clinic"].metrics == {}
    with pytest.raises(Refused, match="was to measure nothing"):
        checked_update(reply(GOOD, layers()), *what, measured=False)
    with pytest.raises(Refused, match="no metrics of the test data"):
        checked_update(reply(unmeasured, layers()), *what)


def learned(update: Update, group: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the clinic's contribution to a group."""
    contribution = update.contributions[{"common": "common", "task": "task/grade"}[group]]
    assert contribution.sites == {"clinic": update.reports["clinic"].examples}
    return contribution.tensors


def test_a_right_answer_passes_unchanged() -> None:
    update = check(reply(GOOD, layers()))
    assert update.reports == {"clinic": GOOD}
    for group, tensors in layers().items():
        assert all(torch.equal(learned(update, group)[name], t) for name, t in tensors.items())


def test_a_difference_is_bounded_together_with_what_it_is_to() -> None:
    int8 = read_codings({"common": {"name": "int8", "per_channel": False}}, {}).up["common"]
    state = {n: torch.full_like(t, 0.9 * MAX_MAGNITUDE) for n, t in layers()["common"].items()}
    for more, fine in ((0.05, True), (0.2, False)):
        target = {name: t + more * MAX_MAGNITUDE for name, t in state.items()}
        data, _ = codec.encode(int8, target, state, {})
        task = layers()["task"]
        message = answers.answer(asked(), GOOD, {"common": data, "task": encode(task)})
        references = {"common": Reference(int8, state, state), "task": Reference(EXACT, task, task)}
        if fine:
            found = learned(
                checked_update(message, MEMBER, 3, PARTITION, METHOD, references, 60.0, GROUPS),
                "common",
            )
            assert all(torch.allclose(found[n], t) for n, t in target.items())
            continue
        with pytest.raises(Refused, match=r"group common: 'fc1.* has a magnitude of"):
            checked_update(message, MEMBER, 3, PARTITION, METHOD, references, 60.0, GROUPS)


def test_whole_tensors_move_the_servers_state_by_what_the_site_changed() -> None:
    current = layers()["common"]
    received = {name: tensor + 0.25 for name, tensor in current.items()}
    answer = {"common": {n: t + 1 for n, t in received.items()}, "task": layers()["task"]}
    references = {"common": Reference(EXACT, received, current)}
    references["task"] = Reference(EXACT, answer["task"], answer["task"])
    found = learned(
        checked_update(reply(GOOD, answer), MEMBER, 3, PARTITION, METHOD, references, 60.0, GROUPS),
        "common",
    )
    assert all(torch.allclose(found[n], t + 1) for n, t in current.items())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"site": "other"}, "answers as 'other'"),
        ({"round": 2}, "answers round 2 in round 3"),
        ({"examples": 0}, "0 examples"),
        ({"examples": -5}, "-5 examples"),
        ({"examples": 10**12}, "it announced 20"),
        ({"steps": 3}, "3 of 5 steps"),
        ({"steps": 9}, "9 of 5 steps"),
        ({"loss": math.nan}, "loss"),
        ({"loss": -5.0}, "training loss -5, which is negative"),
        ({"seconds": -1.0}, "took -1 s, and the order ran out after 60 s"),
        ({"seconds": 1e9}, "took 1e\\+09 s, and the"),
        ({"metrics": {}}, "no metrics"),
        ({"metrics": {"test": {**METRIC, "accuracy": 1.5}}}, "accuracy is 1.5"),
        ({"metrics": {"test": {**METRIC, "loss": math.inf}}}, "loss"),
        ({"metrics": {"test": {**METRIC, "loss": 1e300}}}, "loss is 1e\\+300"),
        ({"metrics": {"test": {**METRIC, "examples": 5.0}}}, "measured 5 test examples, it anno"),
        ({"metrics": {"test": {**METRIC, "examples": 0.0}}}, "measured 0 test examples"),
        ({"metrics": {"test": METRIC, "validation": {**METRIC, "examples": 9.0}}}, "9 validation"),
        ({"metrics": {"secret": METRIC}}, "secret"),
        ({"metrics": {"test": ERRORS}}, "measures test not as a task of classes with 2 outputs"),
        ({"error": "GPU out of memory"}, "GPU out of memory"),
    ],
)
def test_a_wrong_report_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check(reply(replace(GOOD, **change), layers()))


def broken(what: str) -> dict[str, dict[str, torch.Tensor]]:
    tensors = layers()
    common = tensors["common"]
    if what == "missing tensor":
        del common["fc1.bias"]
    elif what == "extra tensor":
        common["fc9.bias"] = torch.zeros(2)
    elif what == "personal tensor":
        common["head.out.weight"] = NETWORK.state_dict()["head.out.weight"]
    elif what == "misshapen":
        common["fc1.bias"] = torch.zeros(6)
    elif what == "transposed":
        common["fc1.weight"] = common["fc1.weight"].T.contiguous()
    elif what == "dtype":
        common["fc1.bias"] = common["fc1.bias"].double()
    elif what == "nan":
        common["fc1.bias"][1] = math.nan
    elif what == "infinite":
        common["fc1.bias"][1] = -math.inf
    elif what == "huge":
        common["fc1.bias"][1] = 1e30
    elif what == "missing group":
        del tensors["task"]
    elif what == "forbidden group":
        tensors["personal"] = {"head.out.bias": torch.zeros(2)}
    return tensors


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("missing tensor", "group common"),
        ("extra tensor", "group common"),
        ("personal tensor", "group common"),
        ("misshapen", "group common"),
        ("transposed", "fc1.weight"),
        ("dtype", "group common"),
        ("nan", "fc1.bias"),
        ("infinite", "fc1.bias"),
        ("huge", "fc1.bias"),
        ("missing group", "does not send group task"),
        ("forbidden group", "may not leave a site: personal"),
    ],
)
def test_wrong_layers_are_refused_by_name(what: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check(reply(GOOD, broken(what)))


NORMALIZED = build("mlp_bn", input_shape=(6,), classes=2, head=[], hidden=[5])


@pytest.mark.parametrize(
    ("before", "sent", "refused"),
    [(1.0, 0.0, False), (1.0, -0.1, True), (-1.0, -0.9, False), (-1.0, -1.1, True)],
)
def test_a_negative_variance_is_refused_unless_the_server_has_it_already(
    before: float, sent: float, refused: bool
) -> None:
    current = {n: t.clone() for n, t in NORMALIZED.state_dict().items() if t.is_floating_point()}
    current["bn1.running_var"].fill_(before)
    update = current | {"bn1.running_var": torch.full((5,), sent)}
    partition = partition_tensors(NORMALIZED, {"common": ["..."]})
    references = {"common": Reference(EXACT, current, current)}

    def checked() -> Update:
        message = reply(GOOD, {"common": update})
        return checked_update(message, MEMBER, 3, partition, METHOD, references, 60.0, ["common"])

    if refused:
        with pytest.raises(Refused, match=r"'bn1.running_var' has a negative variance"):
            checked()
    else:
        assert checked().contributions["common"].tensors["bn1.running_var"][0] == sent


def test_a_site_that_diverged_is_told_from_one_that_failed() -> None:
    for diverged, kind in ((True, NotFinite), (False, Refused)):
        message = answers.failure(asked(), "clinic", 3, "the loss became nan", diverged=diverged)
        with pytest.raises(Refused, match="the loss became nan") as caught:
            check(message)
        assert type(caught.value) is kind


def test_records_that_do_not_belong_are_refused() -> None:
    message = reply(GOOD, layers())
    message.content["diary"] = ConfigRecord({"patient": "a name"})
    with pytest.raises(Refused, match="diary"):
        check(message)


def test_numpy_arrays_are_not_taken_for_payloads() -> None:
    message = reply(GOOD, layers())
    message.content["layers"] = ArrayRecord({"common": Array(torch.zeros(3).numpy())})
    with pytest.raises(Refused, match=r"numpy\.ndarray"):
        check(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(asdict(GOOD))), value=json_values)
def test_any_value_in_any_field_is_right_or_refused(field: str, value: Any) -> None:
    said = {**asdict(GOOD), field: value}
    content = {"report": ConfigRecord({"json": json.dumps(said)})}
    payloads = {g: kinds.payload_array(encode(t)) for g, t in layers().items()}
    message = Message(RecordDict({**content, "layers": ArrayRecord(payloads)}), reply_to=asked())
    try:
        update = check(message)
    except Refused:
        return
    (report,) = update.reports.values()
    assert report.site == "clinic"
    assert report.round == 3
    assert 0 < report.examples <= 20


@given(text=st.text(max_size=200) | st.binary(max_size=50) | st.integers())
def test_any_report_at_all_is_read_or_refused(text: Any) -> None:
    if isinstance(text, int) and not -(2**63) <= text < 2**63:
        return
    content = RecordDict({"report": ConfigRecord({"json": text})})
    with pytest.raises(Refused):
        check(Message(content, reply_to=asked()))


@given(data=st.data())
def test_bytes_changed_anywhere_are_refused_or_still_finite(data: st.DataObject) -> None:
    payload = bytearray(encode(layers()["common"]))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    changed = bytes(payload[: len(payload) - cut])
    message = answers.answer(asked(), GOOD, {"common": changed, "task": encode(layers()["task"])})
    try:
        update = check(message)
    except Refused:
        return
    assert all(torch.isfinite(t).all() for t in learned(update, "common").values())
    assert {n: t.shape for n, t in learned(update, "common").items()} == {
        n: t.shape for n, t in layers()["common"].items()
    }


WHO = {
    "site": "clinic",
    "task": "grade",
    "classes": ["low", "high"],
    "input_shape": [6],
    "examples": {"train": 20, "validation": 4, "test": 4},
    "baseline": {"accuracy": 0.5},
    "fingerprints": {},
    "schemas": {"common": {"fc1.weight": "float32[5, 6]"}},
    "holds_weights": True,
    "device": "cpu",
    "versions": {},
    "error": "",
    "known_states": {},
}


@given(field=st.sampled_from(sorted(WHO)), value=json_values)
def test_any_value_in_any_field_of_an_introduction_is_right_or_refused(
    field: str, value: Any
) -> None:
    content = RecordDict({"report": ConfigRecord({"json": json.dumps({**WHO, field: value})})})
    try:
        report = answers.read_site_report(Message(content, reply_to=asked()))
    except Refused:
        return
    assert isinstance(report.site, str)
    assert report.error or (report.task and len(report.classes) >= 2)
    assert report.error or all(0 < n <= 2**24 for n in report.examples.values())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"device": "\x1b[2J"}, "device"),
        ({"device": "x" * 201}, "device"),
        ({"versions": {"torch": "2\n3"}}, "versions"),
        ({"versions": {"a\nb": "1"}}, "versions"),
        ({"classes": ["low", "high" * 51]}, "class names"),
        ({"classes": [str(number) for number in range(2**16 + 1)]}, "names 65537 classes"),
        ({"known_states": {"common": ["x"]}}, "no list of SHA-256"),
        ({"known_states": {"common": ["0" * 64] * 5}}, "no list of SHA-256"),
        ({"examples": {"train": 2**24 + 1, "validation": 1, "test": 1}}, "make no sense"),
        ({"baseline": {"accuracy": 10**310}}, "out of range"),
        ({"input_shape": []}, "shape of one input"),
        ({"input_shape": [3, -1]}, "shape of one input"),
        ({"input_shape": [1] * 9}, "shape of one input"),
        ({"input_shape": [10**30]}, "shape of one input"),
        ({"input_shape": [3, 8192, 8192]}, "shape of one input"),
    ],
)
def test_what_an_introduction_may_say_is_bounded(changed: dict[str, Any], reason: str) -> None:
    content = RecordDict({"report": ConfigRecord({"json": json.dumps(WHO | changed)})})
    with pytest.raises(Refused, match=reason):
        answers.read_site_report(Message(content, reply_to=asked()))


@pytest.mark.parametrize("name", ["\x1b[2Jclinic", "a\nb", "../x", "x" * 65])
def test_no_name_can_steer_a_terminal_or_a_path(name: str) -> None:
    for field in ("site", "task"):
        content = RecordDict({"report": ConfigRecord({"json": json.dumps({**WHO, field: name})})})
        with pytest.raises(Refused):
            answers.read_site_report(Message(content, reply_to=asked()))
    with pytest.raises(Refused, match=r"^bad\?\[2J$"):
        check(reply(replace(GOOD, error="bad\x1b[2J"), layers()))
