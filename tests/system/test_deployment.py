"""Real processes over real sockets: what they compute, what they send, what survives a kill."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.flower.deployment import SuperLink, start_supernode
from benchmarks.flower.processes import Process, Processes
from client_app.context import checkpoint_path, open_site
from client_app.node_config import read_node_settings
from client_app.round import train_round
from client_app.store import DiskStore
from models import weights
from strategies.config import config_from_dict, plan_for
from tests.helpers.runs import same, states
from tests.system import federation
from tests.system.conftest import Simulation
from tests.system.federation import SITES
from tests.system.recorder import DOWN, UP, Recorder

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

WINDOW = 48  # bytes that are looked for: HTTP/2 cuts payloads into frames, so not much more
ORDER_BYTES = 100_000  # a training order carries conv2, conv3 and head.0: 25,000 float32 values


@dataclass
class Run:
    """A finished run: its results, its log, and the bytes that passed during it, by site."""

    results: dict[str, Any] = field(default_factory=dict)
    log: str = ""
    up: dict[str, list[bytes]] = field(default_factory=dict)
    down: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.results["run"])


@dataclass
class Testbed:
    """A SuperLink, three SuperNodes, and a recorder on the way between."""

    __test__ = False
    processes: Processes
    superlink: SuperLink
    recorders: dict[str, Recorder]
    body: Path
    nodes: dict[str, Process] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.processes.folder / "output"

    def node_config(self, site: str) -> dict[str, Any]:
        """Return the node config of a site, as it is also read by the app."""
        return {
            "site": site,
            "partition-id": SITES.index(site),
            "num-partitions": len(SITES),
            "state-dir": str(self.processes.folder / site / "state"),
            "cache-dir": str(self.processes.folder / site / "cache"),
        }

    def start_site(self, site: str) -> None:
        port = self.recorders[site].port
        self.nodes[site] = start_supernode(
            self.processes, site, port, node_config=self.node_config(site)
        )

    def store(self, site: str, run: str) -> DiskStore:
        """Return what a site keeps of a run."""
        return DiskStore(Path(self.node_config(site)["state-dir"]), run, site)

    def submit(self, name: str, *more: str, **more_config: str) -> Process:
        overrides = federation.overrides(self.body, *more)
        run_config = {"output-dir": str(self.output), "overrides": overrides, **more_config}
        return self.processes.flwr_run(name, self.superlink.name, run_config)

    @contextmanager
    def recorded(self, run: Run) -> Iterator[None]:
        """Add to ``run`` what passes meanwhile."""
        before = {site: recorder.mark() for site, recorder in self.recorders.items()}
        yield
        for site, recorder in self.recorders.items():
            run.up[site] = recorder.since(before[site], UP)
            run.down[site] = recorder.since(before[site], DOWN)

    def begun(self, process: Process, old: set[str]) -> str:
        """Return the name of the run that ``process`` submitted, once it has begun."""
        self.processes.wait_for(
            f"{process.name} begins", lambda: self.runs() != old, seconds=240, watch=[process]
        )
        (name,) = self.runs() - old
        return name

    def results(self, run: str) -> dict[str, Any]:
        """Return the results of a run that has ended well."""
        results = federation.read_results(self.output, run)
        assert results["final"], self.processes.logs()
        return results

    def runs(self) -> set[str]:
        """Return the names of the runs that began."""
        return {path.parent.name for path in self.output.glob("*/run.json")}


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory, body: Path) -> Iterator[Testbed]:
    with ExitStack() as stack:
        processes = stack.enter_context(
            Processes(tmp_path_factory.mktemp("deployment"), threads=None)
        )
        superlink = SuperLink(processes)
        superlink.start()
        recorders = {site: stack.enter_context(Recorder(superlink.fleet)) for site in SITES}
        bed = Testbed(processes, superlink, recorders, body)
        for site in SITES:
            bed.start_site(site)
        yield bed


@pytest.fixture(scope="module")
def interrupted(testbed: Testbed) -> Run:
    """A run whose SuperLink dies after round 1, resumed; the sites lack the checkpoint at first."""
    run = Run()
    with testbed.recorded(run):
        cut = testbed.submit("cut")
        name = testbed.begun(cut, set())
        checkpoints = testbed.output / name / "checkpoints"
        testbed.processes.wait_for(
            "round 1 is complete",
            (checkpoints / "round-000001").exists,
            seconds=300,
            watch=[cut],
        )
        testbed.superlink.kill()
        assert not (checkpoints / "round-000002").exists()
        cut.kill()
        testbed.superlink.start()
        resumed = testbed.submit("resumed", resume="latest")
        testbed.processes.finish(resumed, seconds=600)
        run.log, run.results = cut.text + resumed.text, testbed.results(name)
        assert testbed.runs() == {name}
    return run


@pytest.fixture(scope="module")
def whole(testbed: Testbed, interrupted: Run) -> Run:
    """The same run in one go, at sites that have the checkpoint since the interrupted one."""
    run, old = Run(), {interrupted.name}
    with testbed.recorded(run):
        started = testbed.submit("whole")
        name = testbed.begun(started, old)
        run.log = testbed.processes.finish(started, seconds=480)
        run.results = testbed.results(name)
    return run


# -- what crosses ----------------------------------------------------------------------------------


def windows(tensor: Tensor) -> list[bytes]:
    """Return pieces of a tensor's bytes that occur by chance nowhere else; none if it has none."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    last = len(raw) - WINDOW
    if not tensor.is_floating_point() or last < 0:
        return []
    offsets = sorted({last * i // 7 // 4 * 4 for i in range(8)})
    pieces = (raw[offset : offset + WINDOW] for offset in offsets)
    return [piece for piece in pieces if len(set(piece)) >= WINDOW // 3]


def distinctive(tensors: Iterable[Tensor]) -> set[bytes]:
    return {piece for tensor in tensors for piece in windows(tensor)}


def crossed(pieces: Iterable[bytes], streams: Iterable[bytes]) -> set[bytes]:
    """Return the pieces that are somewhere in the streams."""
    streams = list(streams)
    return {piece for piece in pieces if any(piece in stream for stream in streams)}


def local_tensors(testbed: Testbed, site: str, run: Run) -> dict[str, Tensor]:
    """Return every tensor that a site saved on its disk, of each round and of the deployment."""
    store = testbed.store(site, run.name)
    numbers = store.rounds()
    assert numbers == list(range(1, len(run.results["rounds"]) + 1))
    kept = {
        f"{number}/{name}": tensor
        for number in numbers
        for name, tensor in weights.load(store.path(number))[0].items()
    }
    tuned = weights.load(store.deployed)[0]
    assert tuned.keys() > set(federation.PERSONAL)
    return kept | {f"deployed/{name}": tuned[name] for name in federation.PERSONAL}


def server_state(testbed: Testbed, run: Run, number: int) -> dict[str, Tensor]:
    """Return the server's state after a round, by scope key and tensor name."""
    folder = testbed.output / run.name / "checkpoints" / f"round-{number:06d}"
    return weights.load(folder / "state.safetensors")[0]


def test_no_personal_tensor_crosses_in_either_direction(
    testbed: Testbed, interrupted: Run, whole: Run
) -> None:
    # Both runs: Flower does not send an object again that the other end still has.
    streams = [
        stream
        for run in (interrupted, whole)
        for by_site in (run.up, run.down)
        for of_site in by_site.values()
        for stream in of_site
    ]
    for site in SITES:
        kept = local_tensors(testbed, site, interrupted) | local_tensors(testbed, site, whole)
        names = {name.partition("/")[2] for name, tensor in kept.items() if windows(tensor)}
        assert {"tensor/head.out.weight", "tensor/bn2.running_mean", "tensor/bn3.weight"} <= names
        assert {"optimizer/momentum_buffer/head.out.weight", "head.out.weight"} <= names
        pieces = distinctive(kept.values())
        assert len(pieces) > 100
        assert not crossed(pieces, streams)  # to or from this site, or any other one
    for name in (b"head.out.weight", b"bn2.running_mean", b"bn3.weight"):
        assert not crossed([name], streams)


def test_exchanged_tensors_cross_the_wire(testbed: Testbed, interrupted: Run, whole: Run) -> None:
    after_one, after_two = (server_state(testbed, whole, number) for number in (1, 2))
    for site in SITES:
        task = whole.results["sites"][site]["task"]
        up = [*interrupted.up[site], *whole.up[site]]
        down = [*interrupted.down[site], *whole.down[site]]
        for key, name in {"common": "conv2.weight", f"task/{task}": "head.0.weight"}.items():
            pieces = distinctive([after_one[f"state/{key}//{name}"]])
            assert len(pieces) >= 6
            # Round 2 begins from it, so it goes down; a frame may cut a piece or two.
            assert len(crossed(pieces, down)) >= len(pieces) - 2
            assert crossed([name.encode()], up)
    # site-01 is alone in its task: what it sends up is, to the bit, what the mean is.
    last = distinctive([after_two["state/task/pose//head.0.weight"]])
    sent = [*interrupted.up["site-01"], *whole.up["site-01"]]
    assert len(crossed(last, sent)) >= len(last) - 2


def test_the_checkpoint_is_sent_once_to_a_site_that_lacks_it(
    testbed: Testbed, interrupted: Run, whole: Run
) -> None:
    tensors = weights.load(testbed.body)[0]
    pieces = distinctive(tensors.values())
    assert len(pieces) > 20
    assert interrupted.log.count("sending the pre-trained checkpoint") == 1
    assert "sending the pre-trained checkpoint" not in whole.log
    wanted = interrupted.results["weights"]["content_hash"]
    assert wanted == weights.content_hash(tensors) == whole.results["weights"]["content_hash"]
    for site in SITES:
        received = b"".join(interrupted.down[site])
        assert max(received.count(piece) for piece in pieces) == 1
        assert len(crossed(pieces, [received])) >= len(pieces) - 2
        assert not crossed(pieces, [*interrupted.up[site], *whole.up[site], *whole.down[site]])
        cache = Path(testbed.node_config(site)["cache-dir"])
        assert weights.content_hash(weights.load(checkpoint_path(cache, wanted))[0]) == wanted


# -- what it computes ------------------------------------------------------------------------------


def test_a_deployment_and_both_simulations_give_the_same_bits(
    testbed: Testbed, whole: Run, simulation: Simulation, engine: Simulation
) -> None:
    deployed = federation.measured(whole.results)
    assert len(deployed) > 100
    assert sum(name.startswith("deployment") for name in deployed) > 30
    # Without `train.threads`, Flower's actors have other threads than the sites' processes.
    threads = [value for name, value in deployed.items() if name.endswith("numerics.threads")]
    assert threads == [1] * len(SITES) * 4  # two rounds, the end, fine-tuning
    expected = states(testbed.output, whole.name)
    for simulated in (simulation, engine):
        assert federation.measured(simulated.results) == deployed
        assert same(states(simulated.output, simulated.results["run"]), expected)


# -- what survives ---------------------------------------------------------------------------------


def test_a_killed_site_misses_a_round_and_goes_on_with_its_layers(
    testbed: Testbed, whole: Run
) -> None:
    del whole
    bed, processes, site = testbed, testbed.processes, "site-02"
    old = bed.runs()
    started = bed.submit("killed", "strategy.rounds=3", "strategy.deadline=60")
    run = bed.begun(started, old)
    store = bed.store(site, run)
    processes.wait_for(
        "round 1 is trained", lambda: store.rounds() == [1], seconds=240, watch=[started]
    )
    recorder = bed.recorders[site]
    mark = recorder.mark()
    processes.wait_for(
        "the order of round 2 is at the site",
        lambda: sum(map(len, recorder.since(mark, DOWN))) > ORDER_BYTES,
        seconds=180,
        watch=[started],
    )
    bed.nodes[site].kill()
    assert store.rounds() == [1]
    before = hashlib.sha256(store.path(1).read_bytes()).hexdigest()
    bed.start_site(site)
    log = processes.finish(started, seconds=480)
    results = bed.results(run)
    took_part = [record["participants"] for record in results["rounds"]]
    others = [name for name in SITES if name != site]
    assert took_part == [list(SITES), others, list(SITES)], processes.logs()
    missed = results["rounds"][1]
    assert site in {**missed["absent"], **missed["late"]}
    assert not missed["refused"]
    assert f"site {site} is back" in log
    assert results["final"]["sites"].keys() == set(SITES)
    # It went on from what it had kept in round 1: the same arithmetic from that file gives, to
    # the bit, what it kept in round 3.
    assert store.rounds() == [1, 3]
    assert hashlib.sha256(store.path(1).read_bytes()).hexdigest() == before
    replayed = replay(bed, site, results, 3)
    kept = store.before(4)
    assert kept is not None
    assert same(replayed, kept.flat())
    start = store.before(2)
    assert start is not None
    assert not same(start.flat(), kept.flat())


def replay(bed: Testbed, site: str, results: dict[str, Any], number: int) -> dict[str, Tensor]:
    """Play a round of a site again, in this process, from copies of its files and of the server's."""
    node_config = bed.node_config(site)
    copy = bed.processes.folder / "replayed"
    shutil.copytree(Path(node_config["state-dir"]), copy)
    run = results["run"]
    store = DiskStore(copy, results["federation"], site)
    for later in [n for n in store.rounds() if n >= number]:
        store.path(later).unlink()
    plan = plan_for(
        config_from_dict(results["config"]),
        federation=results["federation"],
        weights=results["weights"]["content_hash"],
    )
    opened = open_site(read_node_settings({**node_config, "state-dir": str(copy)}, {}), plan)
    folder = bed.output / run / "checkpoints" / f"round-{number - 1:06d}"
    state = weights.load(folder / "state.safetensors")[0]
    prefixes = ("state/common//", f"state/task/{opened.data.task}//")
    received = {
        name.partition("//")[2]: tensor
        for name, tensor in state.items()
        if name.startswith(prefixes)
    }
    train_round(opened, number, received, store)
    kept = store.before(number + 1)
    assert kept is not None
    return kept.flat()


def test_a_killed_superlink_resumes_to_the_same_bits(
    testbed: Testbed, interrupted: Run, whole: Run
) -> None:
    assert "resuming after round 1" in interrupted.log
    assert federation.measured(interrupted.results) == federation.measured(whole.results)
    expected = states(testbed.output, whole.name)
    assert same(states(testbed.output, interrupted.name), expected)
    for site in SITES:
        once, again = (testbed.store(site, run.name).before(3) for run in (interrupted, whole))
        assert once is not None
        assert again is not None
        assert same(once.flat(), again.flat())


@pytest.mark.parametrize(
    ("run_config", "message"),
    [
        ({"overrides": "strategy.round=3"}, "override 'strategy.round': strategy has no 'round'"),
        ({"data-root": "pictures"}, "data-root must be an absolute path, got 'pictures'"),
    ],
    ids=["override", "data-root"],
)
def test_a_mistake_ends_the_run_before_any_site_is_asked(
    testbed: Testbed, run_config: dict[str, str], message: str
) -> None:
    output = testbed.processes.folder / "mistake"
    run_config = {"output-dir": str(output), **run_config}
    started = testbed.processes.flwr_run("mistake", testbed.superlink.name, run_config)
    log = testbed.processes.finish(started, seconds=240)
    assert message in log, testbed.processes.logs()
    assert not output.exists()
