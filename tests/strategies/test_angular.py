"""Angles to the corners of a simplex are those of numpy, and the margin is in radians."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from strategies.angular import Angular, cosines, unit, with_margin
from tests.helpers.method_rounds import assert_close

ROWS = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.5, 3.0]])


def test_cosines_are_to_the_corners_of_an_equiangular_frame() -> None:
    corners = np.sqrt(3 / 2) * (np.eye(3) - 1 / 3)
    between = corners.T @ corners
    assert np.allclose(between, 1.5 * np.eye(3) - 0.5)  # length 1, and all the same angle
    rows = ROWS.double().numpy()
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ corners
    assert_close({"cosines": cosines(ROWS)}, {"cosines": expected})
    assert torch.equal(cosines(ROWS).argmax(1), ROWS.argmax(1))


def test_the_margin_widens_the_angle_of_the_label_alone() -> None:
    found = cosines(ROWS)
    made = with_margin(found, torch.tensor([1, 0]), 0.5)
    expected = found.double().numpy()
    for row, label in ((0, 1), (1, 0)):
        expected[row, label] = np.cos(np.arccos(expected[row, label]) + 0.5)
    assert_close({"cosines": made}, {"cosines": expected})


def test_a_cosine_of_1_has_a_finite_slope() -> None:
    found = torch.tensor([[1.0, -1.0]], requires_grad=True)
    with_margin(found, torch.tensor([0]), 0.5).sum().backward()
    assert found.grad is not None
    assert bool(found.grad.isfinite().all())


def test_a_network_gives_scaled_cosines_and_rows_of_0_stay() -> None:
    made = Angular(nn.Identity(), 64.0)(ROWS)
    assert torch.equal(made, 64.0 * cosines(ROWS))
    assert not unit(torch.zeros(1, 3)).any()
