"""A deployed site's log has one line for each round."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from client_app import orders
from client_app.round_lines import examples_seen
from fedstrata.protocol.answers import RoundReport
from tests.helpers.site_contexts import opened, order, payloads, plan_of


def test_a_round_is_one_line_with_what_left(caplog: pytest.LogCaptureFixture) -> None:
    simulated = opened(plan_of())
    context = replace(simulated, node=replace(simulated.node, simulated=False))
    with caplog.at_level(logging.INFO, "flwr"):
        report, update = orders.train(context, order(1, payloads(context)))
    assert isinstance(report, RoundReport)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "site site-00: round 1 of 2: trained task gender on 24 examples, 3 steps on cpu, "
    )
    assert " examples/s, " in line
    sizes = ", ".join(f"{group} {len(each):,} bytes" for group, each in sorted(update.items()))
    assert line.endswith(f"; left: {sizes}, and figures")
    assert sorted(update) == ["common", "task"]


def test_a_simulated_site_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    context = opened(plan_of())
    with caplog.at_level(logging.INFO, "flwr"):
        orders.train(context, order(1, payloads(context)))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("steps", "planned", "epochs", "seen"),
    [(3, 3, 1, 24), (6, 6, 2, 48), (3, 6, 2, 24), (5, 5, None, 40), (0, 0, 1, 0)],
)
def test_examples_are_counted_with_repeats(
    steps: int, planned: int, epochs: int | None, seen: int
) -> None:
    report = RoundReport("a", 1, 24, steps, planned, 0.5, 1.0, {}, "")
    assert examples_seen(report, epochs, 8) == seen
