"""The codings, data and networks that the benchmark of the wire compares."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from benchmarks.accuracy.study import Case
from benchmarks.accuracy.wire_setups import CASES, EXACT, coded, faces, har, quick, write_body
from server_app.compose import compose


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_has_the_same_coding_both_ways(case: Case) -> None:
    config = compose("faces", [*faces(Path("/body")).counted, *case.overrides])
    for group in ("common", "task"):
        up = config.strategy.codings.from_site(group)
        assert up == config.strategy.codings.to_site(group)
        assert (up.name == "exact") == (case == EXACT)


def test_measurements_are_composed_with_a_coding_too() -> None:
    setup = har(Path("/har.npz"))
    compose(setup.experiment, [*setup.counted, *CASES[-1].overrides])
    assert compose(setup.experiment, setup.whole).method["name"] == "fedavg"
    assert coded("x", "int8", groups=["task"]).overrides == (
        "strategy.coding.task=int8",
        "strategy.coding_down.task=int8",
    )


def test_quick_is_of_measurements_with_fewer_sites_and_codings() -> None:
    short, whole = quick(Path("/har.npz")), har(Path("/har.npz"))
    assert (short.experiment, short.stock, short.root) == (whole.experiment, "mlp", whole.root)
    assert short.name != whole.name
    assert len(short.tasks) == 1
    assert {case.name for case in short.cases} < {case.name for case in whole.cases}


def test_the_body_has_no_head(tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(write_body(tmp_path / "body.safetensors"))
    assert "layer4.1.conv2.weight" in tensors
    assert not [name for name in tensors if name.startswith("head")]
