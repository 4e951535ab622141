"""What sites that trained as one exchange, while it is stacked."""

from __future__ import annotations

import pytest
import torch

from client_app.cohort.updates import SiteUpdate, StackedUpdates


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named_at_its_site_alone(value: float) -> None:
    stack = StackedUpdates(
        {"a": torch.zeros(3, 2), "b": torch.zeros(3, 2, 2), "one": torch.ones(3)}
    )
    stack.tensors["b"][1, 0, 1] = value
    assert [bool(SiteUpdate(stack, i).not_finite()) for i in range(3)] == [False, True, False]
    assert SiteUpdate(stack, 1).not_finite().startswith("b is not finite after training")


def test_values_within_a_limit_are_told_from_others() -> None:
    stack = StackedUpdates(
        {"a": torch.tensor([[1.0], [-9.0], [torch.nan]]), "count": torch.tensor([[99], [99], [99]])}
    )
    names = ("a", "count")
    assert [SiteUpdate(stack, i).within(names, 8) for i in range(3)] == [True, False, False]
    assert SiteUpdate(stack, 1).within((), 8)


def test_a_sites_tensors_are_views_of_the_stack() -> None:
    stack = StackedUpdates({"a": torch.arange(6.0).view(3, 2), "none": torch.zeros(3, 0)})
    own = SiteUpdate(stack, 2)
    assert list(own) == ["a", "none"]
    assert len(own) == 2
    assert own["a"].tolist() == [4.0, 5.0]
    assert own["a"].untyped_storage().data_ptr() == stack.tensors["a"].untyped_storage().data_ptr()
    assert own.not_finite() == ""
