"""What a run starts from is compared with what the sites hold before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedstrata.protocol import kinds
from fedstrata.support.errors import UserError
from models import weights
from models.networks import build
from server_app import start_weights
from server_app.app import run_all
from server_app.compose import RunConfig, compose
from tests.helpers.changing_grid import changing_grid
from tests.helpers.data_files import medmnist_files
from tests.helpers.runs import PLAIN, SMALL
from tests.helpers.tampering import with_report
from tests.loopback import LoopbackGrid, simulate

QUICK = ["strategy.rounds=1", "strategy.poll=0.01", "baselines.alone=false"]
OTHER_INPUTS = r"conv1\.weight is \(16, 3, 3, 3\), the model's is \(16, 1, 3, 3\)"


def weights_of(folder: Path, head: int, channels: int = 3) -> list[str]:
    """Return the overrides of a start from a whole small_cnn for two classes, in a file."""
    torch.manual_seed(5)
    network = build("small_cnn", input_shape=(channels, 28, 28), classes=2, head=[head])
    weights.save(folder / "start.safetensors", network.state_dict(), {})
    return ["weights=file", f"weights.path={folder / 'start.safetensors'}"]


def medmnist(tmp_path: Path, overrides: list[str], **tasks: int) -> tuple[Any, LoopbackGrid]:
    root = medmnist_files(tmp_path / "data", **tasks)
    grid = grid_over(tmp_path, root, sites=len(tasks))
    results, _ = simulate(tmp_path / "out", "medmnist", [*QUICK, *overrides], grid=grid)
    return results, grid


def grid_over(tmp_path: Path, root: Path, sites: int) -> LoopbackGrid:
    nodes = {100 + i: {"partition-id": i, "num-partitions": sites} for i in range(sites)}
    return LoopbackGrid(nodes, {"output-dir": str(tmp_path / "out"), "data-root": str(root)})


def test_weights_for_other_inputs_are_refused_when_the_sites_join(tmp_path: Path) -> None:
    chosen = [*weights_of(tmp_path, head=64), "groups.pretrained=[conv1,bn1]"]
    with pytest.raises(UserError, match=OTHER_INPUTS + r".*data\.channels=3"):
        medmnist(tmp_path, chosen, two=2)
    assert not list((tmp_path / "out").glob("*/results.json"))


def test_a_task_with_more_classes_than_the_weights_begins_its_head_afresh(tmp_path: Path) -> None:
    coded = [f"strategy.coding_down.{group}=changed" for group in ("common", "task")]
    chosen = [*weights_of(tmp_path, head=64, channels=1), *coded]
    results, _ = medmnist(tmp_path, chosen, two=2, three=3)
    assert set(results["final"]["tasks"]) == {"two", "three"}
    # Nothing was sent, so what both sites made themselves has the hashes of what the server did.
    assert results["rounds"][0]["bytes_down"] == {"common": 0, "task": 0}


@pytest.mark.parametrize("said", [{"task": "age"}, {}], ids=["new task", "task of others"])
def test_a_site_with_other_inputs_than_the_weights_costs_nobody_the_run(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    def grey(message: Message, reply: Message) -> Message | None:
        answer = joins(message, reply)
        other = message.metadata.message_type == kinds.QUERY and message.metadata.dst_node_id == 103
        if not other or answer is None:
            return answer
        return with_report(input_shape=[1, 28, 28], **said)(message, answer)

    grid = changing_grid(tmp_path)
    late = grid.nodes.pop(103)
    grid.when(1, lambda: grid.nodes.update({103: late}))
    joins = grid.tamper
    grid.tamper = grey
    overrides = [
        *PLAIN,
        *weights_of(tmp_path, head=8),
        "strategy.rounds=3",
        "strategy.on_site_error=exclude",
    ]
    results, _ = simulate(tmp_path, "faces", overrides, grid=grid)
    task = said.get("task", "pose")
    why = f"cannot take part: task {task!r}: the pre-trained weights are for other inputs"
    assert why in results["rounds"][2]["absent"]["site-03"]
    assert results["rounds"][2]["participants"] == ["site-00", "site-01", "site-02"]
    again, _ = simulate(tmp_path, "faces", overrides, grid=grid, resume="latest")
    assert set(again["final"]["sites"]) == {"site-00", "site-01", "site-02"}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretrain(*_: Any, **__: Any) -> None:
        raise AssertionError("the pre-training has begun")

    monkeypatch.setattr(start_weights, "pretrain", pretrain)


@pytest.mark.usefixtures("untrained")
def test_a_frozen_head_is_refused_before_the_pretraining(tmp_path: Path) -> None:
    groups = ["groups=body_common_head_task", "groups.pretrained=[conv1,head.0]"]
    said = r"freezes 2 tensors .*central pre-training\) do not have.*head\.0\.weight"
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, "faces", [*SMALL, "weights=central", *groups], sites=2)


@pytest.mark.usefixtures("untrained")
def test_grey_pictures_are_refused_before_the_pretraining_in_colour(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=OTHER_INPUTS):
        medmnist(tmp_path, ["weights=central", "weights.size=28"], two=2)


def test_weights_that_do_not_fit_one_run_end_no_other(tmp_path: Path) -> None:
    root = medmnist_files(tmp_path / "data", two=2)
    colour = ["data.channels=3", "data.mean=[0.5,0.5,0.5]", "data.std=[0.25,0.25,0.25]"]
    both = [*QUICK, *weights_of(tmp_path, head=64)]
    wanted = RunConfig("medmnist", (*both, ";", *both, *colour), tmp_path / "out", "")
    with pytest.raises(UserError, match=rf"1 of 2 runs failed:\n.*{OTHER_INPUTS}"):
        run_all(grid_over(tmp_path, root, sites=1), wanted)
    (path,) = (tmp_path / "out").glob("*/results.json")
    assert json.loads(path.read_text())["config"]["data"]["channels"] == 3


def test_weights_of_fedavg_cnn_fit_the_images_that_they_were_made_for(tmp_path: Path) -> None:
    network = build("fedavg_cnn", input_shape=(3, 32, 32), classes=2, head=[])
    weights.save(tmp_path / "start.safetensors", network.state_dict(), {})
    chosen = ["model=fedavg_cnn", "weights=file", f"weights.path={tmp_path}/start.safetensors"]
    made = start_weights.checkpoint(compose("medmnist", chosen), tmp_path / "cache", print)
    assert isinstance(made, start_weights.Checkpoint)
    assert made.tensors["fc1.weight"].equal(network.state_dict()["fc1.weight"])


def test_pretraining_has_the_threads_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def pretrain(*_: Any, **__: Any) -> dict[str, torch.Tensor]:
        seen.append(torch.get_num_threads())
        return {"conv1.weight": torch.ones(1)}

    monkeypatch.setattr(start_weights, "pretrain", pretrain)
    before = torch.get_num_threads()
    for seed, threads in ((1, str(before + 1)), (2, "null")):
        overrides = ("weights=central", f"train.threads={threads}", f"seed={seed}")
        job = start_weights.checkpoint(compose("faces", overrides), tmp_path, print)
        assert isinstance(job, start_weights.PretrainingJob)
        job.run(print)
    assert seen == [before + 1, before]
