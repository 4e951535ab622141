"""Runs whose sites have different networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedstrata.support.errors import UserError
from tests.helpers.runs import SMALL, grid_of, same, states, without_times
from tests.loopback import simulate

ONE_TASK = [*SMALL, "data.tasks=[gender]"]
HEADS = ["method=lg_fedavg", "method.common=[head.out]"]
TWO = ["+model@models.big=fedavg_cnn", "+model@models.edge=small_cnn"]


def played(output: Path, *overrides: str, sites: int = 4) -> dict[str, Any]:
    return simulate(output, "faces", [*ONE_TASK, *overrides], sites=sites)[0]


def test_sites_with_different_bodies_average_a_head(tmp_path: Path) -> None:
    results = played(tmp_path, *HEADS, *TWO)
    models = {name: site["model"] for name, site in results["sites"].items()}
    assert models == {f"site-0{n}": ("big", "edge")[n % 2] for n in range(4)}
    assert results["rounds"][-1]["participants"] == list(models)
    shared = states(tmp_path, results["run"])
    assert {name.rpartition("//")[2] for name in shared} == {"head.out.weight", "head.out.bias"}
    rows = {
        variant: {row["group"]: row["tensors"] for row in of_it}
        for variant, of_it in results["partition"].items()
    }
    assert rows.keys() == {"gender/big", "gender/edge"}
    assert rows["gender/big"]["common"] == rows["gender/edge"]["common"] == 2
    assert rows["gender/big"]["personal"] != rows["gender/edge"]["personal"]


@pytest.mark.parametrize("method", [HEADS, ["method=local"]], ids=["lg_fedavg", "local"])
def test_one_network_under_two_names_is_one_network(tmp_path: Path, method: list[str]) -> None:
    alike = ["+model@models.a=small_cnn", "+model@models.b=small_cnn"]
    one = played(tmp_path / "one", *method)
    two = played(tmp_path / "two", *method, *alike)
    assert same(states(tmp_path / "one", one["run"]), states(tmp_path / "two", two["run"]))
    for key in ("rounds", "final", "best"):
        assert without_times(one[key]) == without_times(two[key])


def test_what_does_not_agree_is_said_by_tensor_before_anything_is_trained(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    with pytest.raises(UserError) as said:
        simulate(tmp_path, "faces", [*ONE_TASK, *TWO, "method=lg_fedavg"], grid=grid)
    text = str(said.value)
    assert "site-01, site-03: what model 'edge' exchanges in group 'common' does not agree" in text
    assert "head.0.weight is float32[8, 512] there and float32[8, 256] here" in text
    assert "exchange it alone (method.common=[head.out]" in text
    assert {message.metadata.message_type for message in grid.sent} == {"query"}
