"""The measures of each class leave as `describe` of site.yaml says, and in no other answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedstrata.protocol import kinds
from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.data_description import CHOICES, DEFAULT
from fedstrata.protocol.limits import Refused
from models.training.class_measures import Measured, of_classes
from site_guard.class_rules import allowed


def measured() -> ByClass:
    labels = torch.arange(60) % 2
    split = Measured(torch.randn(60, 2, generator=torch.Generator().manual_seed(1)), labels)
    found = of_classes(split, split, np.random.default_rng(0))
    assert found is not None
    return found


REPORT = RoundReport("a", 3, 9, 4, 4, 0.5, 1.0, {}, "", by_class=measured())


def leaving(describe: tuple[str, ...], **changes: Any) -> Any:
    left = allowed(replace(REPORT, **changes), kinds.EVALUATE, describe, 2)
    assert isinstance(left, RoundReport)
    return left.by_class


def test_by_default_coarse_rates_leave_and_no_counts() -> None:
    assert leaving(DEFAULT) == measured().coarse()


def test_counts_leave_where_the_site_says_so() -> None:
    assert leaving(CHOICES) == measured()
    assert leaving(("confusion",)).confusion


@pytest.mark.parametrize("describe", [(), ("range",), ("range", "classes")])
def test_nothing_leaves_where_the_site_does_not_name_it(describe: tuple[str, ...]) -> None:
    assert leaving(describe) is None


def test_finer_digits_do_not_leave() -> None:
    one = measured().classes[0]
    fine = replace(one, counts=(), rates=(0.123456789,) * 5, threshold=0.123456789)
    sent = leaving(DEFAULT, by_class=replace(measured(), confusion=(), classes=(fine, fine)))
    assert sent.classes[0].rates == (0.12,) * 5
    assert sent.classes[0].threshold == 0.123457


def test_other_classes_than_named_are_refused() -> None:
    with pytest.raises(Refused, match="measured 2 classes, and named 3"):
        allowed(REPORT, kinds.EVALUATE, DEFAULT, 3)
    assert allowed(REPORT, kinds.EVALUATE, DEFAULT, None) != REPORT


@pytest.mark.parametrize("kind", [kinds.TRAIN, kinds.ALONE])
def test_no_answer_but_that_of_a_last_evaluation_has_them(kind: str) -> None:
    with pytest.raises(Refused, match="in a last evaluation alone"):
        allowed(REPORT, kind, DEFAULT, 2)
    without = replace(REPORT, by_class=None)
    assert allowed(without, kind, DEFAULT, 2) == without


def test_fine_tuning_has_them_before_and_after() -> None:
    report = DeployReport(
        "a", 3, 9, 1, 4, 4, 0.5, 1.0, {}, {}, "",
        before_by_class=measured(), after_by_class=measured(),
    )  # fmt: skip
    left = allowed(report, kinds.DEPLOY, DEFAULT, 2)
    assert isinstance(left, DeployReport)
    assert left.before_by_class == left.after_by_class == measured().coarse()
    silent = allowed(report, kinds.DEPLOY, (), 2)
    assert isinstance(silent, DeployReport)
    assert silent.before_by_class is silent.after_by_class is None
