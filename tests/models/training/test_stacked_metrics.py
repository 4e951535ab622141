"""The metrics of many models at once are those of each, to the bit."""

from __future__ import annotations

import pytest
import torch

from models.training import stacked_metrics
from models.training.metrics import metrics
from models.training.stacked_metrics import metrics_of_each

LENGTHS = [1, 2, 3, 5, 6, 6, 6, 17, 33, 33, 250]


@pytest.mark.parametrize("classes", [2, 3, 6, 11, 40])
@pytest.mark.parametrize("ties", [False, True])
def test_each_has_the_bits_that_it_has_alone(classes: int, ties: bool) -> None:
    torch.manual_seed(classes)
    lengths = LENGTHS * 3
    outputs = [torch.randn(n, classes) * 3 for n in lengths]
    if ties:
        outputs = [each.round() for each in outputs]
    # The first models have examples of one class, the last ones of all.
    labels = [torch.randint(1 + i * classes // len(lengths), (n,)) for i, n in enumerate(lengths)]
    labels = [each.clamp(max=classes - 1) for each in labels]
    alone = [metrics(o, each, classes) for o, each in zip(outputs, labels, strict=True)]
    assert metrics_of_each(outputs, labels, classes) == alone
    assert {None} < {each["auroc"] for each in alone}


def test_outputs_that_are_not_finite_are_measured_as_alone() -> None:
    outputs = [torch.full((4, 3), float(each)) for each in ("nan", "inf", "0")]
    labels = [torch.tensor([0, 1, 2, 1])] * 3
    alone = [metrics(o, each, 3) for o, each in zip(outputs, labels, strict=True)]
    assert str(metrics_of_each(outputs, labels, 3)) == str(alone)


def test_parts_that_fit_into_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    outputs, labels = [torch.randn(7, 4) for _ in range(9)], [torch.randint(4, (7,))] * 9
    whole = metrics_of_each(outputs, labels, 4)
    monkeypatch.setattr(stacked_metrics, "MOST", 7 * 4 * 2)
    assert metrics_of_each(outputs, labels, 4) == whole
