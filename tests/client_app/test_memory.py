"""Short memory at a site: the same work in smaller micro-batches, and a reason where none fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client_app import memory
from client_app.context import SiteContext
from client_app.memory import in_micro_batches, within_memory
from client_app.round import train_round
from client_app.store import MemoryStore
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from tests.helpers.site_contexts import model_tensors, opened, received

CPU = torch.device("cpu")


def test_work_is_tried_in_ever_smaller_micro_batches() -> None:
    tried: list[int] = []

    def hungry(micro_batches: int) -> str:
        tried.append(micro_batches)
        if micro_batches < needed:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")  # a mock: there is no GPU here
        return "done"

    needed = 8
    assert in_micro_batches(hungry, most=12, device=CPU) == "done"
    assert tried == [1, 2, 4, 8]
    needed = 99
    tried.clear()
    with pytest.raises(
        UserError, match="out of memory on cpu, even with the smallest micro-batches"
    ):
        in_micro_batches(hungry, most=12, device=CPU)
    assert tried == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_short_memory_is_tried_again(error: Exception, short: bool) -> None:
    assert memory.out_of_memory(error) == short


def test_a_round_that_begins_again_is_as_if_its_micro_batches_had_been_chosen_at_first(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = opened(replace(plan, train=replace(plan.train, cache_features=False)))
    first = context.partitioned.network[0]
    failed: list[int] = []

    def limited(_: nn.Module, given: tuple[Tensor]) -> None:
        if (torch.is_grad_enabled() and len(given[0]) > 2) or len(given[0]) > 6:
            failed.append(len(given[0]))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")  # a mock: there is no GPU here

    def played(chosen: SiteContext) -> tuple[Any, dict[str, Tensor]]:
        store = MemoryStore()
        report = train_round(chosen, 1, received(chosen), store)
        assert store.state is not None
        tensors = model_tensors(chosen)
        return report, {**tensors, **{f"kept/{n}": t for n, t in store.state.flat().items()}}

    hook = first.register_forward_pre_hook(limited)
    report, tensors = within_memory(context, played)
    hook.remove()
    assert failed == [8, 4]  # evaluation at first, then the steps; batches of 2 fit
    chosen, expected = played(replace(context, micro_batches=4))
    assert report.steps == chosen.steps == report.planned
    assert report.loss == chosen.loss
    assert all(torch.equal(tensors[name], t) for name, t in expected.items())
