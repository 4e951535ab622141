"""Ours and the stock app do the same work, and the table follows from what was measured."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import rounds
from benchmarks.flower.processes import Process, Processes
from benchmarks.flower.site_data import write_site_data
from benchmarks.flower.stock import STOCK_APP
from benchmarks.measure.deployed_rounds import (
    BATCH,
    BRIEF,
    COLD,
    NVFLARE,
    OURS,
    RATE,
    SIZE,
    STOCK,
    TEST,
    TRAIN,
    WARM,
    Deployment,
    Timing,
    timings,
)
from benchmarks.peers.environment import Found, Peer
from benchmarks.rounds import Extent, least_operations, main, measure, notes, parse, table
from models import weights
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned
from tests.loopback import simulate


class Noted(Processes):
    """Notes the commands instead of starting them; each ends well at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.commands: list[list[str]] = []

    def start(self, name: str, command: Any, environment: Any = None) -> Process:
        self.commands.append(list(command))
        ended = SimpleNamespace(returncode=0, pid=0, poll=lambda: 0)
        log = self.folder / "log"
        log.touch()
        return Process(name, ended, log)  # type: ignore[arg-type]

    def wait_for(self, what: str, *args: Any, **kwargs: Any) -> None:
        pass


def test_ours_trains_as_the_quickstart_does() -> None:
    train = compose("faces_paper", OURS).train
    assert (train.optimizer.name, train.optimizer.momentum) == ("sgd", 0.9)
    assert (train.optimizer.weight_decay, train.clip, train.schedule) == (0, None, "constant")
    assert (train.batch_size, train.evaluation_batch_size) == (BATCH, BATCH)
    written = tomllib.loads((STOCK_APP / "pyproject.toml").read_text())
    stock = written["tool"]["flwr"]["app"]["config"]
    assert (train.epochs, train.optimizer.lr, train.batch_size) == (
        stock["local-epochs"],
        stock["lr"],
        stock["batch-size"],
    )


def test_a_step_of_ours_is_that_of_the_stock_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(STOCK_APP))
    stock = importlib.import_module("stock.task")
    overrides = (*OURS, "data.train=8", "data.test=4", "strategy.rounds=1")
    config = compose("faces_paper", overrides)
    write_site_data(config, 1, None, tmp_path / "data")
    plan = plan_for(config, federation="start", weights="")
    started = build_partitioned(
        plan, make_method(plan.method), input_shape=(3, SIZE, SIZE), classes=2
    )
    start = started.network.state_dict()

    network = stock.network("resnet18")
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, start.values(), strict=True)))
    loader, _ = stock.load_data(str(tmp_path / "data" / "0.npz"), BATCH)
    assert len(loader) == 1  # one batch: its order changes nothing but rounding
    stock.train(network, loader, 1, RATE)

    simulate(tmp_path / "output", "faces_paper", overrides, sites=1)
    (saved,) = tmp_path.glob("output/*/checkpoints/round-*/state.safetensors")
    ours, _ = weights.load(saved)
    pairs = zip(start, network.state_dict().values(), strict=True)
    theirs = {name: tensor for name, tensor in pairs if tensor.is_floating_point()}
    assert {f"state/common//{name}" for name in theirs} == ours.keys()
    moved = 0.0
    for name, tensor in theirs.items():
        assert torch.allclose(ours[f"state/common//{name}"], tensor, rtol=1e-4, atol=1e-5), name
        moved = max(moved, float((tensor - start[name]).abs().max()))
    assert moved > 1e-3


def test_a_round_lasts_from_the_end_of_the_one_before() -> None:
    expected = [Timing(30, 10, 5e8), Timing(40.5, 11, 5e8)]
    assert timings([100.0, 130.0, 170.5], [9, 10, 11], 5e8) == expected
    with pytest.raises(ValueError, match="argument"):
        timings([100.0, 130.0], [9, 10, 11])


def test_the_table_is_of_medians() -> None:
    found: dict[str, list[Timing]] = {
        STOCK: [Timing(50, 10, 2e9), Timing(30, 10, 1e9), Timing(41, 1, 1e9)],
        COLD: [Timing(30, 10, 8e8)],
        WARM: [Timing(14, 10, 8e8)],
        BRIEF: [Timing(6, 4, 8e8)],
    }
    rows = table(found, {"float32": 4.0, "bfloat16": 2.0}).rows
    assert rows[STOCK] == ("41.0", "4.0", "10.2", "10.0", "40.0", "-", "2000")
    assert rows[COLD] == ("30.0", "4.0", "7.5", "10.0", "20.0", "2.0 times", "800")
    assert rows[WARM] == ("14.0", "4.0", "3.5", "10.0", "4.0", "10.0 times", "800")
    assert rows[BRIEF] == ("6.0", "2.0", "3.0", "4.0", "2.0", "20.0 times", "800")


def test_the_limit_counts_training_and_test_data_of_every_site() -> None:
    one = least_operations(1)
    assert least_operations(3) == 3 * one
    # Forward and backward (twice as much, but to the first layer's inputs) over TRAIN pictures and
    # forward over TEST: a picture of 64x64 takes a ResNet-18 a twelfth of the 1.8e9 multiplications
    # and as many additions of 224x224 (He et al., 2016, table 1).
    forward = 2 * 1.8e9 * (SIZE / 224) ** 2
    assert one == pytest.approx((3 * TRAIN + TEST) * forward, rel=0.05)


def test_a_quick_look_has_one_site_one_round_and_two_cases() -> None:
    quick = Extent.of(parse(["--quick"]))
    assert (quick.cases, quick.sites, quick.rounds, quick.repeat) == ((STOCK, WARM), 1, 1, 1)


def test_every_timing_of_a_case_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "write_site_data", lambda *_: None)
    run = [Timing(3.0, 1.0), Timing(4.0, 1.0)]
    monkeypatch.setattr(Deployment, "run", lambda deployment: run)
    assert measure(Extent((STOCK, WARM), repeat=2), tmp_path) == {STOCK: 2 * run, WARM: 2 * run}


def test_without_stock_flower_nothing_is_compared_with_it() -> None:
    rows = table({NVFLARE: [Timing(14, 10, 1e9)]}, {"float32": 4.0}).rows
    assert rows == {NVFLARE: ("14.0", "4.0", "3.5", "10.0", "4.0", "-", "1000")}


def test_cases_and_peers_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "check_compiled", lambda *_: None)
    monkeypatch.setattr(Peer, "versions", lambda *_: {"nvflare": "2.9.0"})
    options = parse(
        ["--cases", "warm", "warm", "--peers", "nvflare", "--nvflare-python", "x/python"]
    )
    extent = Extent.of(options)
    assert extent.cases == (WARM, NVFLARE)
    assert extent.peers == {"nvflare": Found(Path("x/python").absolute(), {"nvflare": "2.9.0"})}
    assert Extent.of(parse(["--cases", "--peers", "nvflare"])).cases == (NVFLARE,)
    assert Extent.of(parse(["--cases", "warm"])).cases == (WARM,)
    assert not Extent.of(parse([])).tls
    assert Extent.of(parse(["--tls"])).tls


def test_nothing_to_play_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "check_compiled", lambda *_: None)
    with pytest.raises(SystemExit):
        parse(["--cases"])
    assert "leave nothing to play: name one, such as --cases warm" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--nvflare-python", "/nowhere/bin/python"]])
def test_a_missing_nvflare_is_an_error_with_the_lines_that_install_it(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--quick", "--peers", "nvflare", *given])
    error = capsys.readouterr().err
    assert "--peers nvflare: " in error
    assert "add --nvflare-python" in error
    assert "uv venv --python 3.11 ~/nvflare\n" in error
    assert "--python ~/nvflare/bin/python -r benchmarks/requirements-nvflare.txt\n" in error


def test_the_notes_say_who_had_tls() -> None:
    assert "have no TLS" in notes(Extent(), 1e9, [])[0]
    (secure,) = notes(Extent((NVFLARE,), tls=True), 1e9, [])
    assert "have TLS and a registered key" in secure
    assert "NVFlare: its server" in secure


def test_with_tls_every_site_has_a_key_and_the_superlink_knows_it(tmp_path: Path) -> None:
    processes = Noted(tmp_path)
    processes.flower_home.mkdir()
    for case in (STOCK, COLD, WARM):
        processes.commands.clear()
        folder = tmp_path / case
        Deployment(case, folder, 1, tmp_path, sites=2, tls=True).start(processes)
        words = [word for command in processes.commands for word in command]
        assert "--insecure" not in processes.commands[0]
        assert ["consortium", "register"] in [each[1:3] for each in processes.commands]
        assert "--enable-supernode-auth" in words or "--keys" in words
        for site in ("site-0", "site-1"):
            key = folder / "at-hospitals" / site / "supernode.key"
            assert key.exists()
            assert str(key) in words
