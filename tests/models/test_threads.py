"""The threads of torch are changed for a block, and only where another number is wanted."""

from __future__ import annotations

import pytest
import torch

from models.threads import with_threads


def fail_with(threads: int) -> None:
    with with_threads(threads):
        raise RuntimeError(f"with {torch.get_num_threads()} threads")


def test_the_number_before_is_back_after_the_block() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match=f"with {before + 1} threads"):
        fail_with(before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wanted", [None, torch.get_num_threads()])
def test_torch_is_not_told_what_it_does_already(
    wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    wanted = wanted and before
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    with with_threads(wanted):
        assert torch.get_num_threads() == before
    assert told == []
