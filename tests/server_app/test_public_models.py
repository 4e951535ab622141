"""The server writes its part of each task's model, without any site's own layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from client_app.store import DiskStore
from fedstrata.protocol.plan import plan_from_json
from models.model_card import ModelCard
from models.model_file import network_of, read_model
from server_app.public_models import size_lines
from tests.helpers.runs import GROUPS, SMALL, states
from tests.loopback import simulate


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterable[tuple[Any, Path]]:
    """Return results and folder of a run of two tasks."""
    output = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(output / "home"))
        torch.set_num_threads(1)
        yield simulate(output, "faces", [*SMALL, *GROUPS], sites=2)[0], output


def card_of(played: tuple[Any, Path], task: str) -> ModelCard:
    return read_model(played[1] / played[0]["run"] / "models" / f"{task}.safetensors").card


def test_each_task_has_a_file_with_what_the_server_learned(played: Any) -> None:
    results, output = played
    folder = output / results["run"] / "models"
    assert [path.name for path in sorted(folder.iterdir())] == [
        "gender.safetensors",
        "pose.safetensors",
    ]
    server = states(output, results["run"])
    for task, site in (("gender", "site-00"), ("pose", "site-01")):
        model = read_model(folder / f"{task}.safetensors")
        network_of(model)
        assert model.path.stat().st_mode & 0o777 == 0o600
        for key in ("common", f"task/{task}"):
            before = f"state/{key}//"
            learned = {n.removeprefix(before): t for n, t in server.items() if before in n}
            assert learned
            assert all(torch.equal(model.tensors[name], t) for name, t in learned.items())
        own = DiskStore(output, results["federation"], site).before(99)
        assert own is not None
        assert not torch.equal(
            own.tensors["head.out.weight"], model.tensors["head.out.weight"]
        )  # as the run began with it


def test_the_card_says_who_trained_it_and_how(played: Any) -> None:
    results = played[0]
    card = card_of(played, "gender")
    assert (card.state, card.site, card.task, card.round) == ("public", "", "gender", 2)
    assert card.examples == {"train": 24, "validation": 6, "test": 8}
    assert card.classes == {}  # how many of each class is the sites' own
    assert card.data is None
    assert card.start is None  # weights=none
    final = results["final"]["sites"]["site-00"]
    assert card.metrics["site-00"]["test"]["accuracy"] == final["accuracy"]
    assert card.groups["personal"] == 2
    plan = plan_from_json(card.plan)
    assert (plan.seed, plan.federation) == (results["seed"], results["federation"])
    assert card_of(played, "pose").network.name == "small_cnn"


def test_the_log_says_what_the_files_of_several_tasks_repeat(tmp_path: Path) -> None:
    paths = [tmp_path / f"{task}.safetensors" for task in "abc"]
    for path, size in zip(paths, (2_000_000, 2_000_000, 2_100_000), strict=True):
        path.write_bytes(bytes(size))
    where, repeated = size_lines(paths, 1_500_000)
    assert f"{paths[0]} (2.0 MB)" in where
    assert "1.5 MB of it are layers that all tasks share" in repeated
    assert "so 3.0 MB of 6.1 MB are repeated" in repeated
    assert len(list(size_lines(paths[:1], 1_500_000))) == 1
    assert list(size_lines([], 0)) == []


def test_what_all_tasks_share_is_the_same_in_their_files(played: Any) -> None:
    results, output = played
    folder = output / results["run"] / "models"
    gender, pose = (read_model(path).tensors for path in sorted(folder.iterdir()))
    same = {name for name in gender if torch.equal(gender[name], pose[name])}
    assert {name for name in gender if not name.startswith("head.")} <= same
