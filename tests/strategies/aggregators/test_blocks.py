"""Each element is worked on once, whatever the number of threads."""

import numpy as np
import pytest
import torch

from strategies.aggregators.blocks import made_of_blocks, numbers, on_all_cores


@pytest.mark.parametrize("threads", [1, 3])
def test_each_element_is_in_one_block(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sizes = {"a": 10, "b": 3, "none": 0}
    seen = {name: np.zeros(size, int) for name, size in sizes.items()}

    def work(blocks) -> None:
        for name, span in blocks:
            assert span.stop - span.start <= 4
            seen[name][span] += 1

    on_all_cores(sizes, 4, work)
    assert all((count == 1).all() for count in seen.values())


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(blocks) -> None:
        for _ in blocks:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        on_all_cores({"a": 100}, 4, work)


def test_tensors_are_made_with_their_shapes_and_dtypes() -> None:
    like = {"w": torch.zeros(3, 4, dtype=torch.bfloat16), "s": torch.zeros(())}

    def fill(blocks) -> None:
        for (_, span), target in blocks:
            target.copy_(torch.arange(span.start, span.stop))

    made = made_of_blocks(like, 5, fill)
    assert made["w"].dtype == torch.bfloat16
    assert made["w"].flatten().tolist() == list(range(12))
    assert made["s"].shape == ()


def test_half_precision_is_computed_in_float32_and_float64_stays() -> None:
    assert numbers(torch.zeros(2, dtype=torch.float16)).dtype == np.float32
    assert numbers(torch.zeros(2, dtype=torch.float64)).dtype == np.float64
