"""An app that may read a site's data gets little of it into an answer, and each answer says the same.

The app's code is the attacker here: it writes what it likes into every field of its answers. What is
left to it is counted, under the strictest site.yaml: `share: []`, `classes`, `errors: brief`. Where
layers are shared, their values are the app's: only signing decides whose code computes them.
"""

from __future__ import annotations

import json
import math
import random
import secrets
import string
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedstrata.protocol import answers, kinds, limits, orders
from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.categories import MOST_CHARACTERS, MOST_IN_ALL, CategoriesReport
from fedstrata.protocol.class_measures import BINS, COARSE_DECIMALS, RATES, ROC_POINTS
from fedstrata.protocol.kinds import payload_array
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import BOUNDS
from fedstrata.protocol.payload import encode
from fedstrata.protocol.rounding import (
    DECIMALS,
    DIGITS,
    MOST_OWED,
    MOST_SECONDS,
    OWED_DECIMALS,
    SECONDS_DECIMALS,
)
from server_app.compose import compose
from site_guard.answers import AnswerFilter
from site_guard.guard import make_guard
from site_guard.settings import SiteSettings
from site_guard.warm import AppFailed
from strategies.config import plan_for
from tests.docs.pages import ROOT
from tests.helpers import tiny_app

PLAIN = string.ascii_letters + string.digits + "_ .:+()/-"
PLACE: Mapping[str, Any] = {"site": "a", "task": "grade", "state": "/s", "cache": "/c"}
STRICT = SiteSettings(**PLACE, share=(), classes=("low", "high"), errors="brief")
SHARING = SiteSettings(**PLACE, share=("common",), classes=("low", "high"), errors="brief")
TEST = 1000  # examples of the validation and test data
QUERY_BYTES, ROUND_BYTES = 17, 28  # what docs/security.md says of STRICT
# What it says of fields that not all answers have.
RANGE_BYTES, OWED_BYTES, INTERVAL_BYTES, CLASSES_BYTES = 9, 2, 5, 90
CATEGORIES_BYTES = 22_000


def blob(length: int) -> str:
    return "".join(secrets.choice(PLAIN) for _ in range(length))


def order(kind: str, *, plan: str = "{}", layers: Mapping[str, bytes] | None = None) -> Message:
    arrays = {group: payload_array(data) for group, data in (layers or {}).items()}
    return orders.order(kind, 7, plan=plan, round_number=3, layers=arrays, ttl=60.0)


def leaving(
    filtering: AnswerFilter, asked: Message, report: Any, layers: Mapping[str, bytes] | None = None
) -> str:
    """Return the report that leaves as it is on the wire."""
    return str(left(filtering, asked, report, layers).content[kinds.REPORT]["json"])


def left(
    filtering: AnswerFilter, asked: Message, report: Any, layers: Mapping[str, bytes] | None = None
) -> Message:
    record = {group: payload_array(data) for group, data in (layers or {}).items()}
    text = report if isinstance(report, str) else json.dumps(report)
    content = RecordDict(
        {kinds.REPORT: ConfigRecord({"json": text}), kinds.LAYERS: ArrayRecord(record)}
    )
    answered = Message(content, reply_to=asked)
    return filtering.filter_answer(asked, answered, filtering.check_order(asked))


def site(**changes: Any) -> dict[str, Any]:
    report = SiteReport(
        "a", "grade", ("low", "high"), (3, 8, 8),
        {"train": 9000, "validation": TEST, "test": TEST}, {"accuracy": 0.5}, {}, {}, True, "cpu", {}, "",
    )  # fmt: skip
    return asdict(report) | changes


def metrics(**changes: Any) -> dict[str, Any]:
    same = {"examples": float(TEST), "loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5}
    return {**same, "auroc": 0.5, **changes}


def trained(**changes: Any) -> dict[str, Any]:
    both = {"validation": metrics(), "test": metrics()}
    report = RoundReport("a", 3, 9000, 40, 40, 0.5, 1.0, both, "")
    return asdict(report) | {"numerics": {"threads": 4}} | changes


def shuffled(value: Any) -> Any:
    """Return JSON with its keys in another order: an order is a message, too."""
    if isinstance(value, dict):
        entries = list(value.items())
        random.Random(5).shuffle(entries)
        return {key: shuffled(inner) for key, inner in entries}
    return value


# -- the answer to a query -------------------------------------------------------------------------


def test_device_and_versions_carry_nothing_out() -> None:
    fixed = AnswerFilter(SiteSettings(**PLACE, share=(), device="cpu"))
    first = leaving(fixed, order(kinds.QUERY), site())
    for _ in range(20):
        versions = {blob(80): blob(80) for _ in range(16)}
        text = leaving(fixed, order(kinds.QUERY), site(device=blob(80), versions=versions))
        assert text == first
    with pytest.raises(Refused, match="neither cpu nor cuda"):
        leaving(AnswerFilter(STRICT), order(kinds.QUERY), site(device=blob(80)))


def test_a_query_that_is_repeated_gets_the_same_answer_to_the_byte() -> None:
    filtering = AnswerFilter(STRICT)
    first = leaving(filtering, order(kinds.QUERY), site())
    for changes in (
        {"examples": {"train": 8999, "validation": TEST, "test": TEST}},
        {"baseline": {"accuracy": 0.6}},
        {"input_shape": [3, 8, 9]},
        {"classes": ["high", "low"]},
        {"device": "cuda"},
    ):
        with pytest.raises(Refused, match="than before"):
            leaving(filtering, order(kinds.QUERY), site(**changes))
    # What is finer than a count of examples, and the order of keys, is not there any more.
    assert (
        leaving(filtering, order(kinds.QUERY), shuffled(site(baseline={"accuracy": 0.50004})))
        == first
    )
    # One bit is left: whether the checkpoint is there. It changes when the checkpoint arrives.
    other = leaving(filtering, order(kinds.QUERY), site(holds_weights=False))
    assert other == first.replace('"holds_weights": true', '"holds_weights": false')


def test_a_server_cannot_have_a_site_described_over_and_over() -> None:
    filtering = AnswerFilter(STRICT)
    asked = [order(kinds.QUERY, plan=json.dumps({"seed": number})) for number in range(129)]
    for number, each in enumerate(asked[:-1]):
        leaving(filtering, each, site(baseline={"accuracy": number / TEST}))
    with pytest.raises(Refused, match="more than 128 plans"):
        leaving(filtering, asked[-1], site())


def test_classes_and_tensors_that_the_site_does_not_share_do_not_leave() -> None:
    for changes in (
        {"classes": ["low", "Jane Doe"]},
        {"schemas": {"common": {blob(20): "float32[1]"}}, "fingerprints": {"common": "0" * 64}},
    ):
        with pytest.raises(Refused):
            leaving(AnswerFilter(STRICT), order(kinds.QUERY), site(**changes))


def test_hashes_carry_nothing_out_but_one_start_for_a_plan() -> None:
    filtering = AnswerFilter(SHARING)
    plan = json.dumps({"coding_down": {"common": {"name": "int8", "per_channel": False}}})
    names = {"conv.weight": "float32[2]", "conv.bias": "float32[2]"}
    told = set()
    for _ in range(20):
        hashes = [secrets.token_hex(32) for _ in range(4)]
        report = site(
            schemas={"common": shuffled(names)},
            fingerprints={"common": secrets.token_hex(32)},
            known_states={"common": hashes},
        )
        told.add(leaving(filtering, order(kinds.QUERY, plan=plan), report))
    seen = {each for text in told for each in json.loads(text)["known_states"]["common"]}
    assert len(seen) == 1
    assert len({json.loads(text)["fingerprints"]["common"] for text in told}) == 1


def test_little_is_left_in_the_answer_to_a_query() -> None:
    """Counted: each field that the app may choose, once for a plan."""
    counts = 3 * math.log2(limits.MOST_EXAMPLES)
    shape = math.log2(limits.MOST_VALUES) + 7  # factorizations of sizes up to the most, 8 axes
    bits = counts + math.log2(TEST + 1) + shape + 2  # the device, and the checkpoint
    assert bits / 8 <= QUERY_BYTES


def test_little_is_left_in_the_range_of_the_data() -> None:
    """Counted: two numbers, once for a plan; without `describe` there is none."""
    lying = {"counts": {"train": {"low": 9}}, "source": "Jane", "notes": ["Doe"]}
    span = [-1023.99999987654, 4095.00000987654]
    report = site(data={**lying, "value_range": span})
    told = json.loads(leaving(AnswerFilter(STRICT), order(kinds.QUERY), report))["data"]
    assert told.pop("value_range") == [-1024.0, 4095.0]
    assert not any(told.values())
    silent = AnswerFilter(msgspec.structs.replace(STRICT, describe=()))
    assert "data" not in json.loads(leaving(silent, order(kinds.QUERY), report))
    exponents = sys.float_info.max_10_exp - sys.float_info.min_10_exp + 1 + sys.float_info.dig
    number = math.log2(2 * 9 * 10 ** (DIGITS - 1) * exponents + 1)
    assert 2 * number / 8 <= RANGE_BYTES


# -- the report of a round -------------------------------------------------------------------------


def test_digits_that_no_table_prints_do_not_leave() -> None:
    filtering = AnswerFilter(STRICT)
    asked = order(kinds.EVALUATE)
    first = leaving(filtering, asked, trained())
    random.seed(3)
    for _ in range(50):

        def near(value: float, by: float) -> float:
            return value + random.uniform(-by, by)

        both = {
            split: metrics(
                loss=near(0.5, 4e-7),
                accuracy=near(0.5, 0.49 / TEST),
                balanced_accuracy=near(0.5, 4e-7),
                auroc=near(0.5, 4e-7),
            )
            for split in answers.MEASURED
        }
        changed = trained(metrics=both, loss=near(0.5, 4e-7), seconds=near(1.0, 0.04))
        assert leaving(filtering, asked, shuffled(changed)) == first
    assert leaving(filtering, asked, trained(loss=-0.0)) == leaving(
        filtering, asked, trained(loss=0)
    )


def test_counts_of_a_round_do_not_change() -> None:
    filtering = AnswerFilter(STRICT)
    leaving(filtering, order(kinds.QUERY), site())
    leaving(filtering, order(kinds.ALONE), trained())
    for changes in (
        {"examples": 8999},
        {"steps": 39},
        {"steps": 41, "planned": 41},
        {"metrics": {"test": metrics(examples=999.0), "validation": metrics()}},
        {"numerics": {"threads": 5}},
        {"numerics": {"threads": 4, "micro_batches": 3}},
        {"numerics": {"threads": 4, "batched_sites": 7}},
        {"seconds": -1e300},
        {"seconds": 1e300},
        {"loss": 1e300},
    ):
        with pytest.raises(Refused):
            leaving(filtering, order(kinds.ALONE), trained(**changes))


def test_an_error_is_one_sentence_whatever_the_app_wrote() -> None:
    filtering = AnswerFilter(STRICT)
    texts = {
        leaving(filtering, order(kinds.ALONE), trained(error=blob(1500), later=n % 2 == 0))
        for n in range(10)
    }
    assert len(texts) == 1
    assert "the app failed: see the site's log" in texts.pop()


def test_how_the_app_died_is_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit status has eight bits, and the length of an answer that is too long has thirty."""
    texts: dict[str, set[str]] = {}
    for errors in ("brief", "full"):
        guard = make_guard(tiny_app.settings(tmp_path, errors=errors))
        for status in (3, 77):

            def dies(*_: Any, status: int = status, **__: Any) -> Message:
                raise AppFailed(f"the app's process died: exit status {status}")

            monkeypatch.setattr(guard.process, "run", dies)
            work = tiny_app.asked(b"a bundle")
            guard.handle(work)
            report = answers.read_round_report(work.answers[0])
            texts.setdefault(errors, set()).add(report.error)
    assert texts["brief"] == {"the app failed: see the site's log"}
    assert len(texts["full"]) == 2


def test_little_is_left_in_the_report_of_a_round() -> None:
    """Counted: the numbers that the app may choose in each report."""
    decades = math.log10(limits.MOST_LOSS) + DECIMALS
    loss = math.log2(9 * 10 ** (DIGITS - 1) * (decades - DIGITS + 1) + 10**DIGITS)
    rate = math.log2(10**DECIMALS + 2)  # and none
    split = loss + math.log2(TEST + 1) + 2 * rate
    seconds = math.log2(MOST_SECONDS * 10**SECONDS_DECIMALS)
    numerics = math.log2(math.log2(BOUNDS["micro_batches"][1]) + 1) + 2
    bits = 2 * split + loss + seconds + numerics
    assert bits / 8 <= ROUND_BYTES
    assert math.log2(MOST_OWED * 10**OWED_DECIMALS + 2) / 8 <= OWED_BYTES
    assert 2 * rate / 8 <= INTERVAL_BYTES


def categories(*names: str) -> dict[str, Any]:
    return asdict(CategoriesReport("a", {"cp": names}))


def test_names_of_categories_carry_what_an_app_likes_once_and_up_to_a_limit() -> None:
    """Counted: each name is text of the app's. So no site names any unless its rules list the column."""
    printables = sum(chr(code).isprintable() for code in range(sys.maxunicode + 1))
    assert MOST_IN_ALL * math.log2(printables) / 8 <= CATEGORIES_BYTES
    asked = order(kinds.CATEGORIES, plan='{"data":{"categories":{"cp":"agreed"}}}')
    many = [
        f"{n:03}" + blob(MOST_CHARACTERS - 3).replace(" ", "_") for n in range(MOST_IN_ALL // 80)
    ]
    filtering = AnswerFilter(STRICT)
    first = leaving(filtering, asked, categories(*many))
    assert set(json.loads(first)["columns"]["cp"]) == set(many)
    assert leaving(filtering, asked, categories(*reversed(many))) == first  # no order says a thing
    for other in ([*many[:-1], blob(9)], many[:-1]):
        with pytest.raises(Refused, match="other categories than before in this run"):
            leaving(filtering, asked, categories(*other))
    with pytest.raises(Refused, match=f"{MOST_IN_ALL + 1} characters; at most"):
        leaving(AnswerFilter(STRICT), asked, categories(*many, "x"))
    plan = plan_for(compose("tabular", ["data.categories={cp:agreed}"]), federation="f", weights="")
    rules = msgspec.structs.replace(STRICT.plan, models=("*",))
    with pytest.raises(Refused, match="categories"):
        rules.check_plan(plan)
    msgspec.structs.replace(rules, categories=("cp",)).check_plan(plan)


def lying(value: float, by: float) -> dict[str, Any]:
    """Return measures of two classes whose digits are the attacker's."""

    def near() -> float:
        return value + random.uniform(-by, by)

    one = {
        "rates": [near() for _ in RATES],
        "intervals": [[value, value + abs(near() - value)] for _ in RATES],
        "threshold": 0.5 + random.uniform(-4e-7, 4e-7),
        "counts": [],
        "roc": sorted(near() for _ in range(ROC_POINTS)),
    }
    bins = [[near(), near(), near()] for _ in range(BINS)]
    return {
        "classes": [one, one],
        "confusion": [],
        "calibration": bins,
        "calibration_error": near(),
    }


def test_digits_of_the_measures_of_a_class_do_not_leave() -> None:
    filtering, asked = AnswerFilter(STRICT), order(kinds.EVALUATE)
    leaving(filtering, order(kinds.QUERY), site())
    random.seed(4)
    told = {leaving(filtering, asked, trained(by_class=lying(0.42, 0.0049))) for _ in range(20)}
    assert len(told) == 1
    silent = AnswerFilter(msgspec.structs.replace(STRICT, describe=()))
    text = leaving(silent, asked, trained(by_class=lying(0.42, 0.0049)))
    assert text == leaving(silent, asked, trained())
    with pytest.raises(Refused, match="in a last evaluation alone"):
        leaving(filtering, order(kinds.ALONE), trained(by_class=lying(0.42, 0.0049)))


def test_little_is_left_in_the_measures_of_two_classes() -> None:
    """Counted: without `rates` and `confusion` in `describe` there are none."""
    values = 10**COARSE_DECIMALS + 1
    rate = math.log2(values + 1)  # and none
    rising = math.log2(math.comb(values + ROC_POINTS - 1, ROC_POINTS) + 1)
    one = 3 * len(RATES) * rate + math.log2(10**DECIMALS + 2) + rising
    bits = 2 * one + BINS * math.log2(values**3 + 1) + rate
    assert bits / 8 <= CLASSES_BYTES


# -- layers ----------------------------------------------------------------------------------------

LAYERS = {"conv.weight": torch.zeros(4), "conv.bias": torch.ones(2)}


def layers_leaving(payload: bytes) -> bytes:
    asked = order(kinds.TRAIN, layers={"common": encode(LAYERS)})
    return answers.read_payloads(
        left(AnswerFilter(SHARING), asked, trained(), {"common": payload})
    )["common"]


def test_the_bits_of_a_nan_do_not_leave() -> None:
    bits = np.array([0x7FC00001, 0x7FDEADBE, 0xFFC0FFEE, 0x7F800000], dtype="<u4").view("<f4")
    hidden = {**LAYERS, "conv.weight": torch.from_numpy(bits.copy())}
    with pytest.raises(Refused, match="which is not finite"):
        layers_leaving(safetensors.torch.save(hidden))


def with_header(header: Mapping[str, Any] | str, body: bytes, after: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode() + after
    return struct.pack("<Q", len(text)) + text + body


def entry(size: int, begin: int, **more: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [size], "data_offsets": [begin, begin + 4 * size], **more}


@pytest.mark.parametrize(
    "payload",
    [
        safetensors.torch.save(LAYERS, {"leak": "Jane Doe"}),
        with_header(
            {"conv.bias": entry(2, 0), "conv.weight": entry(4, 8, note="Jane Doe")},
            bytes(4) + bytes(20),
        ),
        with_header({"conv.weight": entry(4, 0), "conv.bias": entry(2, 16)}, bytes(24), b" " * 99),
        safetensors.torch.save(LAYERS) + b"Jane Doe",
    ],
)
def test_nothing_leaves_beside_the_values(payload: bytes) -> None:
    try:
        sent = layers_leaving(payload)
    except Refused:
        return
    assert b"Jane" not in sent
    values = safetensors.torch.load(sent)
    assert sent == safetensors.torch.save(values)  # as safetensors writes them, to the byte


def test_what_cannot_be_closed_is_said_on_the_security_page() -> None:
    """The values themselves leave: an app that is signed chooses them."""
    page = (ROOT / "docs" / "security.md").read_text()
    assert "Signed code is trusted code" in page
    assert f"| the answer to a query, once for each plan | {QUERY_BYTES} bytes |" in page
    assert f"| the report of a round | {ROUND_BYTES} bytes |" in page
    assert f"| the range of the files' values, once for each plan | {RANGE_BYTES} bytes;" in page
    assert f"| what coding owes, in a round | {OWED_BYTES} bytes |" in page
    assert f"| the interval, in each last evaluation | {INTERVAL_BYTES} bytes |" in page
    assert f"| the measures of each of two classes, at the end | {CLASSES_BYTES} bytes;" in page
    of_names = "| names of categories (`data.categories={column: agreed}`), once in a run |"
    assert f"{of_names} {MOST_IN_ALL:,} characters, {CATEGORIES_BYTES:,} bytes;" in page
    secret = torch.tensor([float(byte) for byte in b"Jane"])
    sent = safetensors.torch.load(layers_leaving(encode({**LAYERS, "conv.weight": secret})))
    assert bytes(int(value) for value in sent["conv.weight"]) == b"Jane"
