"""The proximal term's own gradient is that of autograd, for each of many models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.training import stacked_optimizers
from models.training.proximal import Proximal


@pytest.mark.parametrize("block", [1, 1 << 16])
@pytest.mark.parametrize("laid_out", [torch.clone, lambda t: t.mT.contiguous().mT])
def test_many_models_have_the_term_and_gradient_of_each(
    monkeypatch: pytest.MonkeyPatch, block: int, laid_out: Callable[[Tensor], Tensor]
) -> None:
    monkeypatch.setattr(stacked_optimizers, "BLOCK", block)
    term, generator = Proximal(0.3), torch.Generator().manual_seed(1)
    own, received, gradients = (
        {
            "a": torch.randn(5, 4, 3, generator=generator),
            "b": torch.randn(5, 2, generator=generator),
        }
        for _ in range(3)
    )
    del gradients["b"]  # as of a parameter that the loss does not depend on
    kept = {name: tensor.clone() for name, tensor in gradients.items()}
    gradients["a"] = laid_out(gradients["a"])
    found, values = term.add_to(gradients, own, received)
    for model in range(5):
        mine = {name: tensor[model].clone().requires_grad_() for name, tensor in own.items()}
        value = term(mine, {name: tensor[model] for name, tensor in received.items()})
        assert values[model].item() == pytest.approx(value.item(), rel=1e-6)
        value.backward()  # type: ignore[no-untyped-call]
        for name, parameter in mine.items():
            before = kept[name][model] if name in kept else torch.zeros(2)
            assert parameter.grad is not None
            torch.testing.assert_close(found[name][model], parameter.grad + before)


def test_gradients_that_share_memory_stay_apart() -> None:
    shared = torch.ones(2, 3)
    own = {"a": torch.full((2, 3), 1.0), "b": torch.full((2, 3), 2.0)}
    received = {name: torch.zeros(2, 3) for name in own}
    found, _ = Proximal(0.5).add_to({"a": shared, "b": shared}, own, received)
    assert (found["a"] == 1.5).all()
    assert (found["b"] == 2.0).all()
