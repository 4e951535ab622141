"""The tutorial loop and ours learn the same from the same start."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from benchmarks.local import TOLERANCE
from benchmarks.measure.fine_tuning import (
    COLD,
    EXACT,
    KEPT,
    LIGHTNING,
    LOADER,
    PLAIN,
    SIDES,
    TRAINED,
    TUTORIAL,
    WARM,
    Case,
    fine_tune,
    site_of,
)
from benchmarks.measure.fresh_process import largest_difference

SMALL = Case("resnet18", 64, "last stage", images=4, epochs=1, rounds=2)


def test_the_tutorial_loop_and_ours_learn_the_same(tmp_path: Path) -> None:
    for side in (side for side in SIDES if side != LIGHTNING):
        fine_tune(SMALL, side, tmp_path / "cache", tmp_path / side)
    assert len(list((tmp_path / "cache").iterdir())) == 2  # float32 and float16
    start = {name: tensor.detach() for name, tensor in site_of(SMALL).trained.items()}
    safetensors.torch.save_file(start, tmp_path / "start")
    assert largest_difference(tmp_path / TUTORIAL, tmp_path / "start") > 10 * TOLERANCE["cpu"]
    assert largest_difference(tmp_path / EXACT, tmp_path / TUTORIAL) <= TOLERANCE["cpu"]
    for loop in (PLAIN, KEPT, LOADER):
        assert largest_difference(tmp_path / loop, tmp_path / EXACT) == 0
    assert largest_difference(tmp_path / COLD, tmp_path / WARM) == 0


@pytest.mark.parametrize(("network", "trained"), TRAINED)
def test_only_the_named_part_is_trained_and_all_before_it_is_cut(
    network: str, trained: str
) -> None:
    site = site_of(Case(network, 64, trained, images=2, epochs=1, rounds=1))
    starts = TRAINED[network, trained]
    assert site.cut > 0
    assert all(name.startswith(starts) for name in site.trained)
    assert {n for n, p in site.network.named_parameters() if p.requires_grad} == set(site.trained)
