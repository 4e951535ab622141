"""A full disk, lost data and short memory at a site: told in words, and what can go on goes on."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client_app import context, memory, round
from client_app.data.site_info import SiteInfo, require_root
from client_app.failures import leaving, without_paths
from client_app.memory import in_micro_batches
from client_app.node_config import read_site
from client_app.store import DiskStore, LocalState, MemoryStore
from fedstrata.protocol.plan import FitConfig, OptimizerConfig, Plan
from fedstrata.support.errors import UserError, private
from models.training.data import ArrayInputs, Split
from models.training.loop import Diverged, FitReport, FitSettings, WeightedLoss, fit
from tests.client_app.test_work import bench_of, plan, received  # noqa: F401

CPU = torch.device("cpu")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond ``size`` bytes: the system's own limit, for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- no room ---------------------------------------------------------------------------------------


def test_personal_layers_that_find_no_room_leave_the_older_ones_whole(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "run-1", "clinic")
    store.save(1, LocalState({"head.out.weight": torch.ones(200)}))
    for write in (
        lambda: store.save(2, LocalState({"head.out.weight": torch.zeros(200)})),
        lambda: store.deploy({"head.out.weight": torch.zeros(200)}, {}),
    ):
        with largest_file(100), pytest.raises(UserError, match="could not be written: the disk"):
            write()
    assert [path.name for path in store.folder.iterdir()] == ["round-000001.safetensors"]
    kept = store.before(3)
    assert kept is not None
    assert torch.equal(kept.tensors["head.out.weight"], torch.ones(200))


def test_a_round_goes_on_where_the_feature_cache_has_no_room(
    plan: Plan,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = bench_of(plan)
    with largest_file(1000):
        without = round.play(bench, 1, received(bench), MemoryStore())
    tensors = bench.partitioned.tensors(list(bench.partitioned.model.state_dict()))
    folder = bench.site.cache_dir / "features"
    assert "no room for" in caplog.text
    assert list(folder.iterdir()) == []  # no unfinished file either
    with_cache = round.play(bench, 1, received(bench), MemoryStore())
    assert len(list(folder.iterdir())) == 3
    assert without.loss == pytest.approx(with_cache.loss, abs=1e-6)
    again = bench.partitioned.tensors(list(tensors))
    assert all(
        torch.allclose(tensors[name].float(), again[name].float(), atol=1e-5) for name in tensors
    )


def test_a_locked_folder_is_not_taken_for_an_empty_one() -> None:
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    locked = top / "data"
    locked.mkdir(mode=0)
    seat = SiteInfo(site=None, task=None, index=None, count=None, root=locked)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            require_root(seat)
    finally:
        if root:
            os.seteuid(0)
        locked.rmdir()
        top.rmdir()


# -- what leaves the site --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/x/Ann Lee/1.png: cannot be read", "a file in the data folder"),
        ("/srv/x/Ann: 'Lee'\n1961.png: cannot be read", "a file in the data folder"),
        ("data-root '/srv/x' does not exist", "data-root 'the data folder' does not exist"),
        ("/srv/x/b is a link that leaves /srv/x: put", "a file in the data folder"),
        ("put them into /srv/x/<class>/", "put them into a file in the data folder"),
        ("/srv/xy/1 is elsewhere", "/srv/xy/1 is elsewhere"),
        ("/srv/x/state/run-1/r.safetensors", "a file in the state folder"),
        ("no 'a' in /srv/x, nor /cache", "no 'a' in the data folder, nor the cache folder"),
    ],
)  # fmt: skip
def test_no_path_of_the_site_leaves_it(text: str, told: str) -> None:
    folders = {"data-root": "/srv/x", "state-dir": "/srv/x/state", "cache-dir": "/cache"}
    assert without_paths(text, read_site({"site": "clinic", **folders}, {})) == told


def test_a_folder_is_known_behind_its_link_and_in_quotation_marks(tmp_path: Path) -> None:
    folder = tmp_path / "Ann's \"\ttab"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    site = read_site({"site": "clinic", "data-root": str(tmp_path / "link")}, {})
    assert without_paths(f"{folder}/1.png: none", site) == "a file in the data folder"
    site = read_site({"site": "clinic", "data-root": str(folder)}, {})
    assert without_paths(f"no {str(folder / '1.png')!r}", site) == "no 'a file in the data folder"


MISSING = UserError("no " + private("Ann Lee.png", "such file"))
LOST = FileNotFoundError(2, "No such file or directory", "/srv/x/Ann Lee.png")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MISSING, "no such file; see the site's log"),
        (UserError("data.size: 0"), "data.size: 0"),
        (UserError("/srv/x/Ann: damaged"), "a file in the data folder; see the site's log"),
        (LOST, "FileNotFoundError: No such file or directory, see the site's log"),
        (KeyError("Ann Lee"), "KeyError: see the site's log"),
        (Diverged("conv1 is not finite"), "Diverged: conv1 is not finite"),
    ],
)
def test_what_is_public_of_an_error_leaves_and_in_a_simulation_all(
    error: Exception, told: str
) -> None:
    site = read_site({"site": "clinic", "data-root": "/srv/x"}, {})
    assert leaving(error, site, simulated=False) == told
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    assert leaving(error, site, simulated=True) == f"{kind}{error}"


def test_of_settings_that_cannot_be_read_nothing_leaves() -> None:
    error = UserError("data-root must be an absolute path, got 'srv/ann lee'")
    told = "the site's settings are wrong; see the site's log"
    assert leaving(error, None, simulated=False) == told
    assert leaving(KeyError("Ann Lee"), None, simulated=False) == "KeyError: see the site's log"


def test_damaged_files_of_the_site_are_told_without_their_names(
    plan: Plan,  # noqa: F811
    tmp_path: Path,
) -> None:
    folders = {"state-dir": str(tmp_path / "Ann Lee"), "cache-dir": str(tmp_path / "1961")}
    bench = bench_of(plan, **folders)
    bench.store.save(1, LocalState({"a": torch.ones(1)}))
    bench.store.path(1).write_bytes(b"damaged")
    path = context.checkpoint_path(bench.site.cache_dir, plan.weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")

    def told(do: Callable[[], object]) -> str:
        with pytest.raises(UserError, match=r"\.safetensors is damaged") as raised:
            do()
        return raised.value.public

    read = "cannot be read"
    assert told(lambda: bench.store.before(2)) == f"the personal layers on the site's disk {read}"
    assert told(lambda: bench_of(plan, **folders)) == (
        f"the pre-trained checkpoint {read}: delete it, it will be sent again"
    )


def test_what_does_not_fit_is_told_without_the_values_of_the_site(plan: Plan) -> None:  # noqa: F811
    with pytest.raises(UserError) as raised:
        bench_of(plan, device="ann-lee")
    assert raised.value.public == "device does not exist; use auto, cpu, cuda or cuda:N"
    bench = bench_of(plan)
    bench.store.save(1, LocalState({"Ann Lee": torch.ones(1)}))
    with pytest.raises(UserError, match="Ann Lee") as raised:
        round.play(bench, 2, received(bench), bench.store)
    assert raised.value.public == (
        "the personal layers kept do not fit the model of this run: they differ; start a new run "
        "instead of resuming this one"
    )


def test_a_features_file_that_is_damaged_is_told_without_its_name(
    plan: Plan,  # noqa: F811
    tmp_path: Path,
) -> None:
    bench = bench_of(plan)
    round.play(bench, 1, received(bench), MemoryStore())
    for path in (bench.site.cache_dir / "features").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"\.npy is damaged") as raised:
        round.play(bench, 2, received(bench), MemoryStore())
    assert raised.value.public == "a file in the cache folder is damaged: delete the file"


# -- out of memory ---------------------------------------------------------------------------------


def settings(micro_batches: int, **values: Any) -> FitSettings:
    sgd = OptimizerConfig("sgd", lr=0.1, momentum=0.9, weight_decay=0.01)
    config = FitConfig(2, None, batch_size=8, optimizer=sgd, clip=0.5, augment="none")
    return FitSettings(replace(config, **values), micro_batches=micro_batches)


def examples(channels: int = 3) -> Split:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (21, 8, 8, channels), dtype=np.uint8)
    return Split(ArrayInputs(pixels), rng.integers(0, 3, 21))


def fitted(
    micro_batches: int, norm: bool = False, **values: Any
) -> tuple[FitReport, dict[str, Tensor], list[int]]:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, *([nn.BatchNorm1d(4)] if norm else []), nn.Linear(4, 3))
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    weights = nn.functional.cross_entropy
    report = fit(
        network,
        examples(),
        settings(micro_batches=micro_batches, **values),
        trained=dict(network.named_parameters()),
        generator=np.random.default_rng(2),
        device=CPU,
        loss=WeightedLoss(torch.tensor([0.2, 1.0, 3.0])) if norm is None else weights,
    )
    return report, {n: t.clone() for n, t in network.state_dict().items()}, sizes


@pytest.mark.parametrize("augment", ["none", "flip_crop"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("micro_batches", [2, 3, 8, 64])
def test_a_step_in_pieces_is_the_step_of_the_whole_batch(
    micro_batches: int, weighted: bool, augment: str
) -> None:
    norm: Any = None if weighted else False
    whole, expected, _ = fitted(1, norm, augment=augment)
    report, tensors, sizes = fitted(micro_batches, norm, augment=augment)
    assert report.steps == whole.steps == 6  # 21 examples by 8, twice
    assert report.loss == pytest.approx(whole.loss, rel=1e-5)
    assert all(torch.allclose(tensors[n], t, atol=1e-6) for n, t in expected.items())
    assert max(sizes) == -(-8 // min(micro_batches, 8))


def test_batchnorm_gets_no_piece_of_one_example() -> None:
    report, _, sizes = fitted(8, norm=True)
    assert min(sizes) == 2
    assert report.steps == 6


def test_a_penalty_counts_once_a_step() -> None:
    def loss_of(micro_batches: int) -> float:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        nn.init.zeros_(network[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(network[1].bias)  # type: ignore[arg-type]
        return fit(
            network,
            examples(),
            settings(micro_batches=micro_batches, epochs=None, steps=1),
            trained=dict(network.named_parameters()),
            generator=np.random.default_rng(2),
            device=CPU,
            penalty=lambda: torch.tensor(5.0),
        ).loss

    assert loss_of(1) == pytest.approx(5 + np.log(3))
    assert loss_of(4) == pytest.approx(5 + np.log(3))


def test_work_is_tried_in_ever_smaller_pieces_and_then_told() -> None:
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
        UserError, match="out of memory on cpu, even with the smallest micro_batches"
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


def test_a_round_in_pieces_is_as_if_they_had_been_chosen_from_the_beginning(
    plan: Plan,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = bench_of(replace(plan, train=replace(plan.train, cache_features=False)))
    first = bench.partitioned.network[0]
    failed: list[int] = []

    def limited(_: nn.Module, given: tuple[Tensor]) -> None:
        if (torch.is_grad_enabled() and len(given[0]) > 2) or len(given[0]) > 6:
            failed.append(len(given[0]))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")  # a mock: there is no GPU here

    def played(chosen: context.SiteContext) -> tuple[Any, dict[str, Tensor]]:
        store = MemoryStore()
        report = round.play(chosen, 1, received(chosen), store)
        assert store.kept is not None
        tensors = bench.partitioned.tensors(list(bench.partitioned.model.state_dict()))
        return report, {**tensors, **{f"kept/{n}": t for n, t in store.kept.flat().items()}}

    hook = first.register_forward_pre_hook(limited)
    report, tensors = memory.within_memory(bench, played)
    hook.remove()
    assert failed == [8, 4]  # evaluation at first, then the steps; micro_batches of 2 fit
    chosen, expected = played(replace(bench, micro_batches=4))
    assert report.steps == chosen.steps == report.planned
    assert report.loss == chosen.loss
    assert all(torch.equal(tensors[name], t) for name, t in expected.items())
