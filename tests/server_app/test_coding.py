"""Whole runs in which layers travel coded: what is learnt, what is sent, who misses rounds, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.loopback import simulate
from tests.server_app.test_run import GROUPS, without_times
from tests.strategies.test_equalities import SMALL, same, states

RUN = [*SMALL, *GROUPS, "strategy.rounds=4"]
BOTH = ["strategy.coding.common=topk", "strategy.coding_down.common=topk"]
SPARSE = [
    *BOTH,
    *(
        f"strategy.{way}.common.{key}"
        for way in ("coding", "coding_down")
        for key in ("least=64", "fraction=0.1")
    ),
]


def total(results: dict[str, Any], way: str) -> int:
    return sum(sum(record[way].values()) for record in results["rounds"])


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("exact")
    results, _ = simulate(folder, "faces", RUN)
    return results, states(folder, results["run"])


@pytest.mark.parametrize("down", ["exact", "changed"])
def test_exact_codings_give_the_bits_of_before(
    tmp_path: Path, exact: tuple[dict[str, Any], dict[str, torch.Tensor]], down: str
) -> None:
    overrides = [f"strategy.coding_down.{group}={down}" for group in ("common", "task")]
    results, _ = simulate(tmp_path, "faces", [*RUN, *overrides])
    after = {n: t for n, t in states(tmp_path, results["run"]).items() if n.startswith("state/")}
    assert same(after, {n: t for n, t in exact[1].items() if n.startswith("state/")})
    assert without_times(results["final"]) == without_times(exact[0]["final"])
    if down == "changed":  # every site makes what a run starts from itself
        assert sum(results["rounds"][0]["bytes_down"].values()) < 16_000
        assert total(results, "bytes_down") < total(exact[0], "bytes_down")


@pytest.mark.parametrize("coding", ["bfloat16", "float16", "int8", "topk"])
def test_each_coding_comes_near_to_exact_in_fewer_bytes(
    tmp_path: Path, exact: tuple[dict[str, Any], dict[str, torch.Tensor]], coding: str
) -> None:
    overrides = [f"strategy.{way}.common={coding}" for way in ("coding", "coding_down")]
    if coding == "topk":
        overrides = SPARSE
    results, _ = simulate(tmp_path, "faces", [*RUN, *overrides])
    assert all(len(record["participants"]) == 4 for record in results["rounds"])
    assert not any(record["refused"] for record in results["rounds"])
    share = {"bfloat16": 0.55, "float16": 0.57, "int8": 0.31, "topk": 0.25}[coding]
    for way in ("bytes_up", "bytes_down"):
        sent = sum(record[way]["common"] for record in results["rounds"])
        assert sent < share * sum(record[way]["common"] for record in exact[0]["rounds"])
    after = states(tmp_path, results["run"])
    moved = distance(after, exact[1], None)
    far = distance(
        after, exact[1], {"bfloat16": 0.02, "float16": 0.02, "int8": 0.05, "topk": 2}[coding]
    )
    assert moved >= far


def distance(
    found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor], most: float | None
) -> float:
    """Return how far the common layers are apart; at most ``most``, where that is given."""
    names = [name for name in exact if name.startswith("state/common//") and "running" not in name]
    apart = float(torch.stack([(found[n] - exact[n]).norm() for n in names]).norm())
    assert most is None or apart < most
    return apart
