"""What is published: once a round, nearer each time, and reached from whatever a site holds."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fedstrata.protocol import payload
from fedstrata.protocol.codec import apply_changes, decode
from fedstrata.protocol.codings import Codings, Int8, TopK, read_codings
from fedstrata.protocol.limits import KNOWN_ROUNDS, MOST_STEPS
from fedstrata.protocol.orders import CodedGroup
from fedstrata.protocol.tensors import TensorSpec, content_hash
from server_app.rounds.downlink import Downlink, Published

START = {"w": torch.zeros(50, 40), "bn.running_var": torch.ones(5)}
SCHEMA = {name: TensorSpec.of(tensor) for name, tensor in START.items()}
SPARSE = TopK(fraction=0.02, values="float32", least=0)
TOPK = {"name": "topk", "fraction": 0.02, "values": "float32", "least": 0}


def learned(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {"w": torch.randn(50, 40), "bn.running_var": torch.rand(5)}


def read(
    downlink: Downlink, site: str, number: int, base: dict[str, Tensor]
) -> tuple[dict[str, Tensor], CodedGroup]:
    """Return what a site that has ``base`` reads from its payloads."""
    arrays, coded = downlink.payloads(site, "common", "common", number, learned(number))
    if not coded.base:
        return payload.decode(arrays["common/0"].data, SCHEMA, max_magnitude=None), coded
    assert content_hash(base) == coded.base
    for step in range(coded.steps):
        data = arrays[f"common/{step}"].data
        base = apply_changes(decode(data, SCHEMA, SPARSE, max_magnitude=None), base)
    return base, coded


def downlink() -> Downlink:
    made = Downlink(read_codings({}, {"common": TOPK}))
    made.begin("common", "common", START)
    return made


def test_what_sites_read_is_what_the_server_thinks_and_comes_nearer_each_round() -> None:
    published = Published(dict(START))
    wanted = learned(1)
    distances = [float((wanted["w"] - published.tensors["w"]).norm())]
    for number in range(1, 60):
        published.publish(SPARSE, number, wanted)
        distances.append(float((wanted["w"] - published.tensors["w"]).norm()))
        assert torch.equal(published.tensors["bn.running_var"], wanted["bn.running_var"])
    assert all(after <= before for before, after in pairwise(distances))
    assert distances[-1] < 1e-5
    assert len(published.steps) <= MOST_STEPS


def test_a_round_is_published_once_whatever_is_learned_meanwhile() -> None:
    published = Published(dict(START))
    published.publish(SPARSE, 1, learned(1))
    before = published.hash
    published.publish(SPARSE, 1, learned(2))
    assert published.hash == before
    assert len(published.steps) == 1


def test_nothing_new_is_no_step() -> None:
    published = Published(dict(START))
    published.publish(Int8(per_channel=False), 1, START)
    assert published.steps == []
    assert published.since(frozenset([content_hash(START)])) == []


def test_steps_are_dropped_when_the_state_itself_is_smaller() -> None:
    published = Published(dict(START))
    for number in range(1, 12):
        published.publish(Int8(per_channel=False), number, learned(number))
        assert sum(len(s.array.data) for s in published.steps) < published.size
    assert len(published.steps) == 3  # a quarter each, and their headers


def test_each_site_reaches_the_same_state_from_the_one_it_has() -> None:
    line = downlink()
    line.note_known("new", {"common": (content_hash(START),)})
    line.note_known("a", {"common": (content_hash(START),)})
    known_states = {"a": START}
    for number in (1, 2, 3):
        known_states["a"], coded = read(line, "a", number, known_states["a"])
        assert coded.steps == 1
        line.answered("a", {"common": "common"})
    found, coded = read(line, "new", 3, START)
    assert coded.steps == 3
    unknown, whole = read(line, "unknown", 3, {})
    assert (whole.base, whole.steps) == ("", 1)
    for state in (found, unknown, known_states["a"]):
        assert content_hash(state) == coded.state == whole.state
    again, coded = read(line, "a", 3, known_states["a"])
    assert coded.steps == 0
    assert again is known_states["a"]


def test_a_site_that_failed_or_was_long_silent_is_sent_the_whole_state() -> None:
    line = downlink()
    line.note_known("a", {"common": (content_hash(START),)})
    for _ in range(KNOWN_ROUNDS):
        assert read(line, "a", 1, START)[1].base
        line.unanswered("a")
    assert not read(line, "a", 1, START)[1].base
    line.answered("a", {"common": "common"})
    assert line.payloads("a", "common", "common", 1, learned(1))[1].steps == 0
    assert line.failed("a")
    assert not read(line, "a", 1, START)[1].base
    assert not line.failed("a")  # there is nothing left to forget


def test_the_whole_state_is_that_of_the_round() -> None:
    line = downlink()
    for number in (1, 2):
        found, coded = read(line, "unknown", number, {})
        assert coded.base == ""
        assert content_hash(found) == coded.state


def test_what_a_site_says_of_groups_that_it_need_not_hold_is_not_kept() -> None:
    line = downlink()
    line.note_known("a", {f"strange-{number}": (content_hash(START),) for number in range(9)})
    assert not line.failed("a")


def test_only_groups_with_a_coding_are_remembered() -> None:
    line = downlink()
    line.begin("task", "task/x", START)
    assert line.remembers("common")
    assert not line.remembers("task")
    assert set(line.published) == {"common"}
    assert line.received("task/x", START) is START
    assert not Downlink(Codings({}, {})).remembers("common")
