"""Whole runs in which layers travel coded: what is learned and sent, who misses rounds, resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from flwr.app import Message
from torch import Tensor

from client_app.store import DiskStore
from fedstrata.protocol import answers, kinds, orders
from fedstrata.support.errors import UserError
from models import weights
from server_app.compose import compose
from strategies import method as methods
from tests.helpers.runs import DOCS, GROUPS, SMALL, Crash, grid_of, same, states, without_times
from tests.helpers.tampering import of_round, one_in, silent, with_report
from tests.loopback import LoopbackGrid, simulate

RUN = [*SMALL, *GROUPS, "strategy.rounds=4"]
WAYS = ("coding", "coding_down")
TOPK = [
    f"strategy.{way}.{group}.{key}"
    for way in WAYS
    for group in ("common", "task")
    for key in ("least=64", "fraction=0.1")
]
Found = tuple[dict[str, Any], dict[str, Tensor]]


def both(coding: str, *groups: str) -> list[str]:
    """Return the overrides that code these groups, all without any, in both ways."""
    return [f"strategy.{way}.{g}={coding}" for way in WAYS for g in groups or ("common", "task")]


SPARSE = [*both("topk"), *TOPK]


def played(folder: Path, *overrides: str, **more: Any) -> Found:
    results, _ = simulate(folder, "faces", [*RUN, *overrides], **more)
    return results, states(folder, results["run"])


def sent(results: dict[str, Any], way: str, group: str = "common") -> list[int]:
    return [record[way].get(group, -1) for record in results["rounds"]]


def learned(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in found.items() if name.startswith("state/")}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return how far the trained common layers of two states are apart, over their length."""
    names = [n for n in one if n.startswith("state/common//") and "running" not in n]
    length = torch.stack([one[n].norm() for n in names]).norm()
    return float(torch.stack([(one[n] - other[n]).norm() for n in names]).norm() / length)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return played(tmp_path_factory.mktemp("exact"))


# -- what is learned, and in how many bytes -----------------------------------------------------------


@pytest.mark.parametrize("down", ["exact", "changed"])
def test_exact_codings_give_the_bits_of_none(tmp_path: Path, exact: Found, down: str) -> None:
    overrides = [f"strategy.coding_down.{group}={down}" for group in ("common", "task")]
    results, found = played(tmp_path, *overrides)
    assert same(learned(found), learned(exact[1]))
    assert without_times(results["final"]) == without_times(exact[0]["final"])
    if down == "changed":  # what a run starts from every site makes itself
        assert 0 <= sent(results, "bytes_down")[0] < 4_000
        assert sent(results, "bytes_down")[1] > 80_000


@pytest.mark.parametrize(
    ("coding", "share", "near"),
    [
        ("bfloat16", 0.55, 0.001),
        ("float16", 0.57, 0.001),
        ("int8", 0.31, 0.002),
        ("lowbit", 0.15, 0.02),
        ("topk", 0.2, 0.1),
        ("lowrank", 0.36, 0.002),
    ],
)
def test_each_coding_comes_near_to_exact_in_fewer_bytes(
    tmp_path: Path, exact: Found, coding: str, share: float, near: float
) -> None:
    overrides = [*both(coding), *(TOPK if coding == "topk" else [])]
    results, found = played(tmp_path, *overrides)
    assert all(len(record["participants"]) == 4 for record in results["rounds"])
    for way in ("bytes_up", "bytes_down"):
        assert sum(sent(results, way)) < share * sum(sent(exact[0], way))
    assert 0 < apart(found, exact[1]) < near
    assert all((tensor >= 0).all() for name, tensor in found.items() if "running_var" in name)
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    assert results["coding"]["common"]["up"]["name"] == coding
    assert results["coding"]["task"]["down"]["name"] == coding


def test_without_what_was_lost_the_layers_end_elsewhere(
    tmp_path: Path, exact: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error feedback at the site: without it, sparse updates are further from the exact ones."""
    _, found = played(tmp_path / "with", *SPARSE)
    monkeypatch.setattr("client_app.exchange.Exchange.write", _forgetful())
    _, without = played(tmp_path / "without", *SPARSE)
    assert apart(found, exact[1]) < apart(without, exact[1])


def _forgetful() -> Callable[..., Any]:
    from client_app.exchange import Exchange

    write = Exchange.write
    return lambda self, trained, received, feedback, groups, number: write(
        self, trained, received, {}, groups, number
    )


@pytest.mark.parametrize("aggregator", ["fedadam", "fedavgm", "median"])
def test_aggregators_act_on_what_was_decoded(tmp_path: Path, aggregator: str) -> None:
    overrides = [
        "groups.personal=[head.out, 'type:BatchNorm2d']",
        f"aggregator@strategy.aggregators.common={aggregator}",
    ]
    _, plain = played(tmp_path / "exact", *overrides)
    results, found = played(tmp_path / "coded", *overrides, *both("bfloat16"))
    assert all(len(record["participants"]) == 4 for record in results["rounds"])
    assert apart(found, plain) < (0.2 if aggregator == "fedadam" else 0.01)  # of sign(delta), early


def test_fedprox_holds_back_to_what_was_received(tmp_path: Path) -> None:
    prox = ["method=fedprox", "method.mu=1"]
    _, plain = played(tmp_path / "exact", *prox)
    _, found = played(tmp_path / "coded", *prox, *both("int8"))
    assert apart(found, plain) < 0.002


def test_the_order_of_arrival_changes_no_bit(tmp_path: Path) -> None:
    class Backwards(LoopbackGrid):
        def get_node_ids(self) -> list[int]:
            return list(self.nodes)

        def pull_messages(self, message_ids: Any) -> list[Message]:
            return list(super().pull_messages(list(message_ids)[::-1]))

    _, found = played(tmp_path / "a", *SPARSE)
    grid = grid_of(tmp_path / "b")
    _, other = played(tmp_path / "b", *SPARSE, grid=Backwards(grid.nodes, grid.run_config))
    assert same(found, other)


# -- who misses rounds -------------------------------------------------------------------------------


@dataclass
class Line:
    """Keeps what the server says of the common layers to each node, by round; may tamper."""

    tamper: Callable[[Message, Message], Message | None] = lambda _, reply: reply
    coded: dict[tuple[int, int], orders.CodedGroup] = field(default_factory=dict)
    taken: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)

    def __call__(self, message: Message, reply: Message) -> Message | None:
        if number := of_round(message):
            node = message.metadata.dst_node_id
            self.coded[number, node] = orders.read_coded(message)["common"]
            self.taken[number, node] = orders.read_order(message).taken
        return self.tamper(message, reply)


def wiped(output: Path, number: int) -> Callable[[Message, Message], Message]:
    """Return what deletes all that site-02 holds once it has trained in round ``number``."""

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == number and message.metadata.dst_node_id == 102:
            for folder in output.glob("*/sites/site-02"):
                shutil.rmtree(folder)
        return reply

    return tamper


def test_a_site_that_missed_rounds_is_sent_the_differences_since(tmp_path: Path) -> None:
    line = Line()
    results, _ = played(tmp_path, *SPARSE, "strategy.fraction=0.5", tamper=line)
    steps = {key: coded.steps for key, coded in line.coded.items()}
    assert all(coded.base for coded in line.coded.values())  # never the whole
    assert max(steps.values()) > 1
    line_of = {
        number: {c.state for (n, _), c in line.coded.items() if n == number}
        for number in range(1, 5)
    }
    assert all(len(states) == 1 for states in line_of.values())  # one published state for all
    assert results["rounds"][-1]["participants"]


def test_a_site_without_what_it_held_says_so_and_is_sent_the_whole(tmp_path: Path) -> None:
    line = Line(wiped(tmp_path, 2))
    results, _ = played(tmp_path, *SPARSE, tamper=line)
    assert "lacks the state" in results["rounds"][2]["refused"]["site-02"]
    assert line.coded[3, 102].base
    assert line.coded[4, 102].base == ""
    assert line.coded[4, 101].base
    assert "site-02" in results["rounds"][3]["participants"]


def test_a_late_site_goes_on_from_what_it_last_answered_with(tmp_path: Path) -> None:
    late = Line(one_in(2, "site-02", silent))
    results, _ = played(tmp_path, *SPARSE, "strategy.deadline=3", tamper=late)
    assert results["participation"]["site-02"] == ["took part", "late", "took part", "took part"]
    assert late.coded[3, 102].steps == 2
    assert late.coded[3, 101].steps == 1
    assert late.coded[3, 102].state == late.coded[3, 101].state
    taken = {key: set(rounds.values()) for key, rounds in late.taken.items()}
    assert [taken[number, 102] for number in range(1, 5)] == [{0}, {1}, {1}, {3}]
    assert [taken[number, 101] for number in range(1, 5)] == [{0}, {1}, {2}, {3}]


def test_an_update_of_a_group_whose_state_was_kept_was_not_taken(tmp_path: Path) -> None:
    """Krum wants three updates and gets two in round 2: what was lost in them is added again."""

    def two_silent(message: Message, reply: Message) -> Message | None:
        late = of_round(message) == 2 and message.metadata.dst_node_id in (102, 103)
        return None if late else reply

    line = Line(two_silent)
    krum = "aggregator@strategy.aggregators.common=krum"
    results, _ = played(tmp_path, *SPARSE, krum, "strategy.deadline=3", tamper=line)
    assert [list(record["kept"]) for record in results["rounds"]] == [[], ["common"], [], []]
    assert line.taken[3, 100] == {"common": 1, "task": 2}
    assert line.taken[4, 100] == {"common": 3, "task": 3}


def test_where_all_have_lost_what_they_held_the_round_is_played_again(tmp_path: Path) -> None:
    def wipes(message: Message, reply: Message) -> Message:
        if of_round(message) == 2:
            for folder in tmp_path.glob("*/sites/*"):
                shutil.rmtree(folder)
        return reply

    line = Line(wipes)
    results, _ = played(tmp_path, *SPARSE, tamper=line)
    assert [len(record["participants"]) for record in results["rounds"]] == [4, 4, 4, 4]
    assert all(line.coded[3, node].base == "" for node in range(100, 104))
    assert all(line.coded[4, node].base for node in range(100, 104))


def test_a_fault_that_the_whole_does_not_heal_still_ends_the_run(tmp_path: Path) -> None:
    line = Line(one_in_all(2, with_report(examples=10**9)))
    with pytest.raises(UserError, match="round 2: no site could take part"):
        played(tmp_path, *SPARSE, tamper=line)
    assert all(line.coded[2, node].base == "" for node in range(100, 104))


def one_in_all(number: int, change: Any) -> Any:
    return lambda message, reply: change(message, reply) if of_round(message) == number else reply


def test_a_site_that_says_not_now_keeps_what_it_holds(tmp_path: Path) -> None:
    def not_now(message: Message, reply: Message) -> Message:
        number = of_round(message) or 0
        if 2 <= number <= 6 and message.metadata.dst_node_id == 102:
            return answers.failure(message, "site-02", number, "at night", later=True)
        return reply

    line = Line(not_now)
    results, _ = played(tmp_path, *SPARSE, "strategy.rounds=7", tamper=line)
    assert all(line.coded[number, 102].base for number in range(1, 8))
    assert line.coded[7, 102].steps == 6
    assert "site-02" in results["rounds"][6]["participants"]


def test_a_site_that_is_silent_for_long_is_sent_the_whole(tmp_path: Path) -> None:
    def mute(message: Message, reply: Message) -> Message | None:
        late = 2 <= (of_round(message) or 0) <= 4 and message.metadata.dst_node_id == 102
        return None if late else reply

    line = Line(mute)
    rounds = ["strategy.rounds=5", "strategy.deadline=1"]
    results, _ = played(tmp_path, *SPARSE, *rounds, tamper=line)
    assert [line.coded[number, 102].base != "" for number in range(1, 6)] == [True] * 4 + [False]
    assert "site-02" in results["rounds"][4]["participants"]
    assert set(line.taken[5, 102].values()) == {1}


def test_nothing_is_sent_for_a_start_that_the_sites_have_from_a_checkpoint(tmp_path: Path) -> None:
    start = ["weights=central", "weights.examples=20", "weights.identities=4", "weights.epochs=1"]
    line = Line()
    results, _ = played(tmp_path, *SPARSE, *start, tamper=line)
    assert [line.coded[1, node].steps for node in range(100, 104)] == [0, 0, 0, 0]
    assert len(results["rounds"][0]["participants"]) == 4


def test_layers_that_travel_down_coded_and_up_exactly_come_near(
    tmp_path: Path, exact: Found
) -> None:
    down = [each for each in SPARSE if "coding_down" in each]
    _, found = played(tmp_path, *down)
    assert 0 < apart(found, exact[1]) < 0.002


def test_a_refused_site_is_sent_the_whole(tmp_path: Path) -> None:
    line = Line(one_in(2, "site-02", with_report(examples=10**9)))
    results, _ = played(tmp_path, *SPARSE, tamper=line)
    assert "site-02" in results["rounds"][1]["refused"]
    assert line.coded[3, 102].base == ""
    assert "site-02" in results["rounds"][2]["participants"]


def test_a_state_that_comes_out_otherwise_is_refused_at_the_site(tmp_path: Path) -> None:
    class Damaging(LoopbackGrid):
        def push_messages(self, messages: Any) -> list[str]:
            changed = []
            for message in messages:
                if of_round(message) == 2 and message.metadata.dst_node_id == 102:
                    data = bytearray(message.content["layers"]["common/0"].data)  # type: ignore[index]
                    data[8 + int.from_bytes(data[:8], "little")] ^= 1  # of a BatchNorm's mean
                    message.content["layers"]["common/0"] = kinds.payload_array(bytes(data))  # type: ignore[index]
                changed.append(message)
            return list(super().push_messages(changed))

    grid = grid_of(tmp_path)
    results, _ = played(tmp_path, *SPARSE, grid=Damaging(grid.nodes, grid.run_config))
    assert "not the state that the order names" in results["rounds"][1]["refused"]["site-02"]
    assert "site-02" in results["rounds"][2]["participants"]


# -- what stays, what comes back ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coded", "more"),
    [(SPARSE, []), (SPARSE, ["strategy.fraction=0.5"]), (both("lowrank"), [])],  # its energy rises
    ids=["topk", "topk of half of the sites", "lowrank"],
)
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, coded: list[str], more: list[str]
) -> None:
    def dies(message: Message, reply: Message) -> Message:
        if of_round(message) == 3:
            raise Crash
        return reply

    overrides = [*RUN, *coded, *more]
    whole, _ = simulate(tmp_path / "whole", "faces", overrides)
    with pytest.raises(Crash):
        simulate(tmp_path / "cut", "faces", overrides, tamper=dies)
    line = Line()
    resumed, _ = simulate(tmp_path / "cut", "faces", overrides, resume="latest", tamper=line)
    assert same(states(tmp_path / "whole", whole["run"]), states(tmp_path / "cut", resumed["run"]))
    assert without_times(whole["final"]) == without_times(resumed["final"])
    if not more:  # the sites say what they hold: nobody is sent the whole, nor anything twice
        assert all(each.base for each in line.coded.values())
        assert [line.coded[3, node].steps for node in range(100, 104)] == [0, 1, 1, 1]


def test_what_is_owed_is_kept_at_the_site_and_never_sent(tmp_path: Path) -> None:
    messages: list[bytes] = []

    def listen(message: Message, reply: Message) -> Message:
        for content in (message.content, reply.content):
            layers = content.get("layers", {})
            messages.extend(array.data for array in layers.values())  # type: ignore[union-attr]
        return reply

    results, _ = played(tmp_path, *both("int8", "common"), tamper=listen)
    for site in results["sites"]:
        store = DiskStore(tmp_path, results["federation"], site)
        flat, _ = weights.load(store.path(store.rounds()[-1]))
        received = {n.removeprefix("received/") for n in flat if n.startswith("received/")}
        error_feedback = {
            n.removeprefix("error_feedback/"): t
            for n, t in flat.items()
            if n.startswith("error_feedback/")
        }
        assert set(error_feedback) == {n for n in received if "running" not in n}
        assert not any(name.startswith("head.0") for name in error_feedback)  # task is exact here
        for tensor in error_feedback.values():
            raw = tensor.numpy().tobytes()[:64]
            assert not any(raw in data for data in messages)


def test_a_round_that_is_sent_again_is_answered_with_the_same_bytes(tmp_path: Path) -> None:
    asked: list[Message] = []
    _, grid = simulate(tmp_path, "faces", [*RUN, *SPARSE])
    asked = [m for m in grid.sent if of_round(m) == 4 and m.metadata.dst_node_id == 101]
    grid.replies.clear()
    (message_id,) = grid.push_messages(asked[:1])
    first = answers.read_payloads(grid.replies[message_id])
    (message_id,) = grid.push_messages(asked[:1])
    assert answers.read_payloads(grid.replies[message_id]) == first


def test_who_lost_what_it_held_at_the_end_is_sent_the_whole_to_fine_tune(tmp_path: Path) -> None:
    shared = [
        "groups.personal=[]",
        "groups.task=['head']",
    ]  # personal layers would be lost for good
    tuned = [*SPARSE, *shared, "deployment.epochs=1"]
    results, _ = played(tmp_path, *tuned, tamper=wiped(tmp_path, 4))
    assert "lacks the state" in results["final"]["refused"]["site-02"]
    assert list(results["deployment"]["sites"]) == ["site-00", "site-01", "site-02", "site-03"]


def test_fine_tuning_and_newcomers_get_the_last_state(tmp_path: Path) -> None:
    tuning = ["deployment.epochs=1", "deployment.newcomers=[site-03]"]
    results, _ = played(tmp_path, *SPARSE, *tuning)
    assert set(results["deployment"]["newcomers"]) == {"site-03"}
    assert len(results["deployment"]["sites"]) == 3
    assert not results["deployment"]["refused"]
    before = {s: e["before"]["accuracy"] for s, e in results["deployment"]["sites"].items()}
    assert before == {s: e["accuracy"] for s, e in results["final"]["sites"].items()}


# -- the choice --------------------------------------------------------------------------------------


def test_the_choice_is_written_as_people_would_or_as_hydra_does() -> None:
    plain = compose(
        "faces_paper", ["strategy.coding.common=topk", "strategy.coding.common.fraction=0.01"]
    )
    full = compose(
        "faces_paper",
        ["coding@strategy.coding.common=topk", "strategy.coding.common.fraction=0.01"],
    )
    assert plain == full
    assert plain.strategy.codings.from_site("common").to_dict() == {
        "name": "topk",
        "fraction": 0.01,
        "values": "bfloat16",
        "least": 1024,
    }
    assert plain.strategy.codings.from_site("task").name == "exact"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("strategy.coding.common=int9", "coding 'int9' does not exist.*nearest: 'int8'"),
        ("strategy.coding.common=changed", "write strategy.coding.common=exact"),
        ("strategy.coding.personal=int8", "'personal' never leaves its site"),
        ("strategy.coding.comon=int8", "group 'comon' does not exist.*nearest: 'common'"),
    ],
)
def test_a_wrong_choice_is_reported_before_any_training(
    tmp_path: Path, override: str, said: str
) -> None:
    grid = grid_of(tmp_path)
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, "faces", [*RUN, override], grid=grid)
    assert not [m for m in grid.sent if m.metadata.message_type == kinds.TRAIN]


@pytest.mark.parametrize("way", WAYS)
def test_nodes_that_send_sums_send_them_exactly(way: str) -> None:
    with pytest.raises(UserError, match=rf"write strategy\.{way}\.task=exact, or cohort\.sites=1"):
        compose("faces_paper", ["cohort.sites=2", f"strategy.{way}.task=bfloat16"])
    compose("faces_paper", ["cohort.sites=2"])


def test_a_method_whose_payload_is_no_layer_cannot_be_coded_with_losses() -> None:
    from fedstrata.protocol.codings import read_codings
    from tests.helpers.prototypes import FedProto

    lossy = read_codings({"prototypes": {"name": "bfloat16"}}, {})
    with pytest.raises(UserError, match=r"write strategy\.coding\.prototypes=exact"):
        methods.check_codings(FedProto(1.0), lossy)
    methods.check_codings(FedProto(1.0), read_codings({}, {"prototypes": {"name": "changed"}}))
