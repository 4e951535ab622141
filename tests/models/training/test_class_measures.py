"""Clinical measures are what torchmetrics says at the same threshold, chosen on validation data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedstrata.protocol.class_measures import BINS, RATES, ROC_POINTS, fractions
from models.training.class_measures import (
    Measured,
    calibration,
    of_classes,
    of_labels,
    roc,
    youden,
)
from models.training.intervals import RESAMPLES, bootstrap


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def split(classes: int, examples: int = 200, seed: int = 0) -> Measured:
    """Return outputs that know something of the labels."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (examples,), generator=drawn)
    outputs = torch.randn(examples, classes, generator=drawn)
    return Measured(outputs + torch.nn.functional.one_hot(labels, classes), labels)


def labelled(examples: int = 200, seed: int = 0) -> Measured:
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (examples, 3), generator=drawn).float()
    outputs = torch.randn(examples, 3, generator=drawn) + labels
    labels[torch.rand(examples, 3, generator=drawn) < 0.2] = torch.nan
    return Measured(outputs, labels)


def test_rates_of_two_classes_are_those_of_torchmetrics_at_the_threshold() -> None:
    from torchmetrics.functional import classification as theirs

    validation, test = split(2, seed=1), split(2, seed=2)
    found = of_classes(validation, test, generator())
    assert found is not None
    second = found.classes[1]
    assert second.threshold is not None
    scores = test.outputs.double().softmax(1)[:, 1]
    at = {"threshold": second.threshold}
    answers = (scores >= second.threshold).long()
    expected = [
        theirs.binary_recall(scores, test.labels, **at),
        theirs.binary_specificity(scores, test.labels, **at),
        theirs.binary_precision(scores, test.labels, **at),
        theirs.binary_negative_predictive_value(scores, test.labels, **at),
        theirs.binary_f1_score(scores, test.labels, **at),
    ]
    assert second.rates == pytest.approx([float(each) for each in expected], abs=1e-6)
    matrix = theirs.binary_confusion_matrix(answers, test.labels)
    assert [list(row) for row in found.confusion] == matrix.tolist()
    error = theirs.binary_calibration_error(scores, test.labels, n_bins=BINS)
    assert found.calibration_error == pytest.approx(float(error), abs=1e-6)
    # The first class is the other side of the same answers.
    first = found.classes[0]
    assert (first.rates[0], first.rates[2]) == (second.rates[1], second.rates[3])
    assert first.threshold == pytest.approx(1 - second.threshold)


def test_of_more_classes_the_likeliest_is_the_answer() -> None:
    from torchmetrics.functional import classification as theirs

    validation, test = split(4, seed=1), split(4, seed=2)
    found = of_classes(validation, test, generator())
    assert found is not None
    chances = test.outputs.double().softmax(1)
    each = {"num_classes": 4, "average": "none"}
    for place, function in (
        (0, theirs.multiclass_recall),
        (1, theirs.multiclass_specificity),
        (2, theirs.multiclass_precision),
        (4, theirs.multiclass_f1_score),
    ):
        expected = function(chances, test.labels, **each).tolist()
        assert [one.rates[place] for one in found.classes] == pytest.approx(expected, abs=1e-6)
    assert {one.threshold for one in found.classes} == {None}
    matrix = theirs.multiclass_confusion_matrix(chances, test.labels, 4)
    assert [list(row) for row in found.confusion] == matrix.tolist()
    error = theirs.multiclass_calibration_error(chances, test.labels, 4, n_bins=BINS)
    assert found.calibration_error == pytest.approx(float(error), abs=1e-6)


def test_each_label_counts_what_is_known_of_it() -> None:
    from torchmetrics.functional import classification as theirs

    validation, test = labelled(seed=1), labelled(seed=2)
    found = of_labels(validation, test, generator())
    assert found is not None
    assert found.confusion == ()
    for column, one in enumerate(found.classes):
        known = ~test.labels[:, column].isnan()
        scores = torch.sigmoid(test.outputs[known, column].double())
        wanted = test.labels[known, column].long()
        assert sum(one.counts) == int(known.sum())
        recall = theirs.binary_recall(scores, wanted, threshold=one.threshold or 0)
        assert one.rates[0] == pytest.approx(float(recall), abs=1e-6)
        area = theirs.binary_auroc(scores, wanted)
        assert np.trapezoid(one.roc, dx=1 / (ROC_POINTS - 1)) == pytest.approx(
            float(area), abs=0.02
        )
    assert len({one.threshold for one in found.classes}) == 3


def test_the_threshold_is_chosen_on_the_validation_data_alone() -> None:
    validation = split(2, seed=1)
    shifted = validation._replace(outputs=validation.outputs + torch.tensor([2.0, 0.0]))
    thresholds = set()
    for test in (split(2, seed=2), split(2, seed=3)):
        found = of_classes(shifted, test, generator())
        assert found is not None
        thresholds.add(found.classes[1].threshold)
    assert len(thresholds) == 1
    assert (thresholds.pop() or 1) < 0.3


scored = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.8, 1.0]), st.booleans()),
    min_size=2,
    max_size=12,
)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([p for p, _ in pairs]), np.array([h for _, h in pairs])


@given(scored)
def test_no_threshold_has_a_greater_youden_index(pairs: list[tuple[float, bool]]) -> None:
    scores, holds = arrays(pairs)
    if holds.all() or not holds.any():
        assert youden(scores, holds) == 0.5
        return

    def index(threshold: float) -> float:
        said = scores >= threshold
        return float(said[holds].mean() + (~said)[~holds].mean() - 1)

    best = max(map(index, np.arange(0, 1.1, 0.05)))  # above 1: never the answer, an index of 0
    assert max(index(youden(scores, holds)), 0) == pytest.approx(best)


@given(scored)
def test_a_roc_curve_goes_through_the_points_of_all_thresholds(
    pairs: list[tuple[float, bool]],
) -> None:
    scores, holds = arrays(pairs)
    curve = roc(scores, holds)
    if holds.all() or not holds.any():
        assert curve == ()
        return
    assert len(curve) == ROC_POINTS
    assert list(curve) == sorted(curve)
    assert curve[-1] == 1.0
    for threshold in np.unique(scores):
        said = scores >= threshold
        place = said[~holds].mean() * (ROC_POINTS - 1)
        if place == int(place):
            assert curve[int(place)] >= said[holds].mean() - 1e-9
    assert curve[0] == np.mean(scores[holds] > scores[~holds].max())


def test_a_curve_of_ties_is_a_straight_line() -> None:
    curve = roc(np.full(8, 0.3), np.arange(8) < 4)
    assert curve == pytest.approx(np.linspace(0, 1, ROC_POINTS))


def test_calibration_is_by_bins_of_equal_width() -> None:
    bins, error = calibration(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0, 1, 1, 1], bool))
    assert bins[0] == (0.05, 0.5, 0.5)
    assert bins[9] == pytest.approx((0.975, 1.0, 0.5))
    assert bins[1:9] == (None,) * 8
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)


def test_intervals_are_those_of_a_bootstrap_over_the_examples() -> None:
    """Drawn at once as counts, and example by example: the same but for the draws."""
    found = of_classes(split(3, seed=1), test := split(3, seed=2), generator())
    assert found is not None
    one, truth = found.classes[1], test.labels.numpy() == 1
    said = test.outputs.argmax(1).numpy() == 1
    cells = np.stack([said & truth, said & ~truth, ~said & truth, ~said & ~truth])
    for place in range(len(RATES)):

        def rate(weights: NDArray[np.float64], place: int = place) -> NDArray[np.float64]:
            part, whole = fractions(*(cells @ weights.T))[place]
            return np.asarray(part / whole)

        drawn = bootstrap(rate, len(truth), generator())
        value, interval = one.rates[place], one.intervals[place]
        assert interval is not None
        assert interval == pytest.approx(drawn, abs=0.02)
        assert value is not None
        assert interval[0] < value < interval[1]
    assert RESAMPLES == 1000


def test_a_class_that_does_not_occur_has_no_rates_of_it() -> None:
    outputs = torch.eye(3).repeat(4, 1)[:8]
    found = of_classes(
        Measured(outputs, torch.zeros(8, dtype=torch.int64)),
        Measured(outputs, torch.arange(8) % 2),
        generator(),
    )
    assert found is not None
    assert found.classes[2].rates[0] is None
    assert found.classes[2].intervals[0] is None
    assert found.classes[2].roc == ()
    assert found.classes[2].rates[1] is not None


def test_a_task_of_very_many_classes_has_none() -> None:
    many = Measured(torch.randn(4, 65), torch.arange(4))
    assert of_classes(many, many, generator()) is None
    labels = Measured(torch.randn(4, 65), torch.zeros(4, 65))
    assert of_labels(labels, labels, generator()) is None


def test_a_label_of_which_nothing_is_known_has_nothing() -> None:
    unknown = Measured(torch.randn(4, 2), torch.full((4, 2), torch.nan))
    found = of_labels(unknown, unknown, generator())
    assert found is not None
    assert found.classes[0].rates == (None,) * 5
    assert found.calibration_error is None
    found.check(4)
