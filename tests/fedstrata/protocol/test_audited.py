"""What audit logs say of a message: the same on both sides, and bounded whatever arrives."""

from __future__ import annotations

import hashlib
import json

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import kinds, orders
from fedstrata.protocol.audited import answer_fields, order_fields
from fedstrata.support.audit import MOST_LINE


def answered(layers: dict[str, bytes], report: str = "{}") -> Message:
    arrays = {group: kinds.payload_array(data) for group, data in layers.items()}
    content = RecordDict({"layers": ArrayRecord(arrays), "report": ConfigRecord({"json": report})})
    order = orders.order(kinds.TRAIN, 7, plan="", round_number=3, layers={}, ttl=60.0)
    return Message(content, reply_to=order)


def test_an_order_is_found_by_run_kind_and_round() -> None:
    order = orders.order(kinds.TRAIN, 7, plan="", round_number=3, layers={}, ttl=60.0)
    run = str(order.metadata.run_id)
    assert order_fields(order) == {"run": run, "kind": "train", "round": 3}
    order.content = RecordDict()
    assert order_fields(order)["round"] == 0


def test_layers_have_their_size_and_hash() -> None:
    fields = answer_fields(answered({"common": b"layers"}))
    expected = {"bytes": 6, "sha256": hashlib.sha256(b"layers").hexdigest()}
    assert fields["layers"] == {"common": expected}
    assert fields["report"]["bytes"] == 2


@given(st.dictionaries(st.text(max_size=600), st.binary(max_size=4), max_size=40), st.text())
def test_whatever_a_site_sends_fits_in_a_line(layers: dict[str, bytes], report: str) -> None:
    fields = answer_fields(answered({g: d for g, d in layers.items() if g}, report))
    assert len(json.dumps(fields)) < MOST_LINE
    assert json.dumps(fields).isprintable()
