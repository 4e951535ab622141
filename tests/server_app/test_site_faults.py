"""What goes wrong at a site's machine costs that site's contribution, and the server is said why."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor, nn

from client_app import context
from client_app.round import PreparedRound
from client_app.store import DiskStore
from fedstrata.support.errors import UserError
from tests.helpers.data_files import fill
from tests.helpers.runs import GROUPS, SMALL
from tests.helpers.tampering import of_round
from tests.loopback import LoopbackGrid, simulate

NOBODY = 65534
CLINIC = 101
ROUNDS = [*SMALL, *GROUPS, "strategy.rounds=3"]


def after_round(number: int, do: Callable[[], None]) -> Callable[[Message, Message], Message]:
    """Return a tamper that does ``do`` when the clinic has answered a round."""

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == number and message.metadata.dst_node_id == CLINIC:
            do()
        return reply

    return tamper


def both(*tampers: Callable[[Message, Message], Message]) -> Callable[[Message, Message], Message]:
    def tamper(message: Message, reply: Message) -> Message:
        for each in tampers:
            reply = each(message, reply)
        return reply

    return tamper


def clinics(tmp_path: Path, **clinic: Any) -> LoopbackGrid:
    """Return two sites of a deployment: the clinic of the test, and another one."""
    nodes: dict[int, dict[str, Any]] = {
        node: {
            "site": site,
            "partition-id": node - 100,
            "num-partitions": 2,
            "state-dir": str(tmp_path / site),
        }
        for node, site in {100: "other", CLINIC: "clinic"}.items()
    }
    nodes[CLINIC] |= clinic
    return LoopbackGrid(nodes, {"output-dir": str(tmp_path)})


def check_cost(results: dict[str, Any], reason: str, folder: Path) -> None:
    """Expect that the clinic missed round 2 for ``reason``, and that nothing else was lost."""
    assert results["participation"] == {
        "clinic": ["took part", "refused", "took part"],
        "other": ["took part"] * 3,
    }
    assert results["rounds"][1]["refused"] == {"clinic": reason}
    assert str(folder) not in str(results["rounds"])


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a real file system of 256 KB, or skip where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_one_contribution_and_no_personal_layer(
    tmp_path: Path, small_disk: Path
) -> None:
    filler = small_disk / "filler"

    def full() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    grid = clinics(tmp_path, **{"state-dir": str(small_disk / "state")})
    grid.tamper = both(after_round(1, full), after_round(2, filler.unlink))
    results, _ = simulate(tmp_path, "faces", ROUNDS, grid=grid)
    reason = "the personal layers could not be written: the disk is full (No space left on device)"
    check_cost(results, reason, small_disk)
    store = DiskStore(small_disk / "state", results["federation"], "clinic")
    assert store.rounds() == [1, 3]
    assert {path.name for path in store.folder.iterdir()} == {
        "data.sha256",
        "round-000001.safetensors",
        "round-000003.safetensors",
        "models",
        "test-examples.json",
    }


# -- a data folder that cannot be read -------------------------------------------------------------


@pytest.fixture
def pictures() -> Iterator[Path]:
    """Return a folder of pictures whose parents anybody may enter."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    for name, first in {"cat": 0, "dog": 20}.items():
        fill(top / "pictures" / "Ann Lee" / name, first, 20)
    yield top / "pictures" / "Ann Lee"
    shutil.rmtree(top)


IMAGES = [
    "model=small_cnn",
    "model.head=[8]",
    "weights=none",
    "groups=all_common",
    "data.size=28",
    "data.memory_mb=0",  # with the next line, every batch decodes its files again
    "data.cache_mb=0",
    "data.site_split.scheme=none",
    "strategy.rounds=3",
    "strategy.poll=0.01",
    "baselines.alone=false",
    "data.classes={label:[cat,dog]}",
]


def vanish(root: Path) -> Callable[[], None]:
    return lambda: root.rename(root.with_name("moved"))


def come_back(root: Path) -> Callable[[], None]:
    return lambda: root.with_name("moved").rename(root)


@pytest.mark.parametrize(
    ("fresh", "reason"),
    [
        (False, "a file in the data folder: cannot be read (No such file or directory)"),
        (True, "data-root does not exist on this site's machine"),
    ],
)
def test_a_data_folder_that_vanishes_costs_one_contribution(
    tmp_path: Path, pictures: Path, fresh: bool, reason: str
) -> None:
    shutil.copytree(pictures, tmp_path / "other-pictures")
    grid = clinics(tmp_path, **{"data-root": str(pictures)})
    grid.nodes[100]["data-root"] = str(tmp_path / "other-pictures")

    def gone() -> None:
        vanish(pictures)()
        if fresh:  # as in a process that was started for the message
            context._OWN_DATA.clear()

    grid.tamper = both(after_round(1, gone), after_round(2, come_back(pictures)))
    results, _ = simulate(tmp_path, "images", IMAGES, grid=grid)
    check_cost(results, f"{reason}; see the site's log", pictures)
    assert "Ann" not in str(results)


def test_a_data_folder_that_may_not_be_read_costs_one_contribution(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pictures, tmp_path / "other-pictures")
    grid = clinics(tmp_path, **{"data-root": str(pictures)})
    grid.nodes[100]["data-root"] = str(tmp_path / "other-pictures")
    load = context.load_data
    locked = False

    def load_as_nobody(name: str, options: Any, seat: Any, seed: int) -> Any:
        # Root may read everything; so where the tests run as root, another user reads here.
        other = locked and os.geteuid() == 0 and seat.root == pictures
        if other:
            os.seteuid(NOBODY)
        try:
            return load(name, options, seat, seed)
        finally:
            if other:
                os.seteuid(0)

    def lock() -> None:
        nonlocal locked
        locked = True
        pictures.chmod(0)
        context._OWN_DATA.clear()

    def unlock() -> None:
        nonlocal locked
        locked = False
        pictures.chmod(0o755)

    monkeypatch.setattr(context, "load_data", load_as_nobody)
    grid.tamper = both(after_round(1, lock), after_round(2, unlock))
    results, _ = simulate(tmp_path, "images", IMAGES, grid=grid)
    reason = "the data folder cannot be read: Permission denied; see the site's log"
    check_cost(results, reason, pictures)


# -- what a deployed site says of its own mistakes -------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("none: '1961'.png", "{}, line 2: there is no such file in the data folder"),
        ("bad: '1961'.png", "{}: not a readable picture; mend or remove it"),
    ],
)
def test_a_wrong_manifest_is_reported_without_the_names_in_it(
    tmp_path: Path,
    pictures: Path,
    caplog: pytest.LogCaptureFixture,
    entry: str,
    reason: str,
) -> None:
    (pictures / "Lee").mkdir()
    (pictures / "Lee" / "bad: '1961'.png").write_bytes(b"no picture")
    (pictures / "list.csv").write_text(f"path,label\nLee/{entry},cat\ndog/020.png,dog\n")
    grid = clinics(tmp_path, **{"data-root": str(pictures)})
    del grid.nodes[100]
    with pytest.raises(UserError) as raised:
        simulate(tmp_path, "images", [*IMAGES, "data.manifest=list.csv"], grid=grid)
    said = reason.format("a file in the data folder")
    assert f"clinic: {said}; see the site's log\n" in str(raised.value)
    assert not re.search("Ann|Lee|1961", str(raised.value))
    assert f"Lee/{entry}" in caplog.text


def test_settings_that_cannot_be_read_are_reported_at_the_site_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = clinics(tmp_path, **{"data-root": "srv/ann lee"})
    said = "the site's settings are wrong; see the site's log"
    with pytest.raises(UserError, match=said) as raised:
        simulate(tmp_path, "faces", ROUNDS, grid=grid)
    assert "ann lee" not in str(raised.value)
    assert "data-root must be an absolute path, got 'srv/ann lee'" in caplog.text


def test_a_simulation_tells_all(tmp_path: Path, pictures: Path) -> None:
    (pictures / "dog" / "020.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"Ann Lee/dog/020\.png: not a readable picture \("):
        simulate(tmp_path, "images", IMAGES, sites=2, data_root=str(pictures))
    with pytest.raises(UserError, match="data-root must be an absolute path, got 'srv/ann lee'"):
        simulate(tmp_path, "images", IMAGES, sites=2, data_root="srv/ann lee")


# -- out of memory ---------------------------------------------------------------------------------


class Device:
    """A mock of a device's memory, as there is no GPU here: batches above a size do not fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fits = 1000
        self.failed: list[int] = []
        run = PreparedRound.run

        def watched(prepared: PreparedRound, **more: Any) -> Any:
            clinic = prepared.context.data.site == "clinic"
            first = prepared.context.partitioned.network[0]
            hook = first.register_forward_pre_hook(self.check) if clinic else None
            try:
                return run(prepared, **more)
            finally:
                if hook is not None:
                    hook.remove()

        monkeypatch.setattr(PreparedRound, "run", watched)

    def check(self, _: nn.Module, given: tuple[Tensor]) -> None:
        if len(given[0]) > self.fits:
            self.failed.append(len(given[0]))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(("fits", "takes_part"), [(2, True), (0, False)])
def test_short_memory_is_met_with_smaller_pieces_and_said_where_one_example_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, takes_part: bool
) -> None:
    device = Device(monkeypatch)
    grid = clinics(tmp_path)

    def set_memory(size: int) -> Callable[[], None]:
        return lambda: setattr(device, "fits", size)

    grid.tamper = both(after_round(1, set_memory(fits)), after_round(2, set_memory(1000)))
    results, _ = simulate(tmp_path, "faces", ROUNDS, grid=grid)
    if takes_part:
        assert results["participation"]["clinic"] == ["took part"] * 3
        entry = results["rounds"][1]["sites"]["clinic"]
        assert entry["steps"] == entry["planned_steps"] == 3
        assert device.failed == [6, 4]  # the six of validation, then half a batch
        numerics = [each["sites"]["clinic"]["numerics"] for each in results["rounds"]]
        assert [each["micro_batches"] for each in numerics] == [1, 4, 1]
    else:
        reason = (
            "out of memory on cpu, even with the smallest micro-batches of a batch: free memory there, "
            "give the site another device, or choose a smaller model"
        )
        check_cost(results, reason, tmp_path)
        assert device.failed == [6, 4, 2, 1]


def test_a_site_whose_disk_is_lost_trains_on_and_every_record_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = clinics(tmp_path)

    def lose() -> None:
        (folder,) = (tmp_path / "clinic").glob("*/sites/clinic")
        shutil.rmtree(folder)

    grid.tamper = after_round(2, lose)
    with caplog.at_level("INFO", "flwr"):
        results, _ = simulate(tmp_path / "output", "faces", ROUNDS, grid=grid)
    lost = [record["lost"] for record in results["rounds"]]
    assert lost[:2] == [{}, {}]
    assert lost[2].keys() == {"clinic"}
    assert "it began with those of the run's start" in lost[2]["clinic"]
    assert results["rounds"][2]["participants"] == ["clinic", "other"]
    assert "round 3: clinic: what it kept of its last round is no longer on its disk" in caplog.text
    assert results["final"]["sites"].keys() == {"clinic", "other"}


def test_a_site_whose_disk_is_lost_after_the_last_round_measures_no_other_model(
    tmp_path: Path,
) -> None:
    grid = clinics(tmp_path)

    def lose() -> None:
        (folder,) = (tmp_path / "clinic").glob("*/sites/clinic")
        shutil.rmtree(folder)

    grid.tamper = after_round(3, lose)
    tuned = [*ROUNDS, "deployment.epochs=1"]
    results, _ = simulate(tmp_path / "output", "faces", tuned, grid=grid)
    assert results["final"]["sites"].keys() == {"other"}
    assert "personal layers of round 3" in results["final"]["refused"]["clinic"]
    assert "personal layers of round 3" in results["deployment"]["refused"]["clinic"]
