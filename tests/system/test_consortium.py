"""A consortium with TLS, keys and a roster, over real sockets: only its members take part."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.flower.consortia import new_consortium
from benchmarks.flower.deployment import SuperLink, start_site, start_supernode
from benchmarks.flower.processes import Process, Processes, free_port, listening
from consortium.members import Hospital
from consortium.superlink import SuperLink as SuperLinkControl
from fedstrata.support.audit_check import read_and_verify
from tests.system import federation

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

HOSPITALS = (
    Hospital("site-00", "gender"),
    Hospital("site-01", "pose"),
    Hospital("site-02", "gender"),
    Hospital("impostor", "pose"),
)
MEMBERS = [hospital.name for hospital in HOSPITALS[:3]]


@dataclass
class Consortium:
    """A SuperLink with TLS and registered keys, and the folder of all keys."""

    processes: Processes
    superlink: SuperLink
    keys: Path
    body: Path
    nodes: dict[str, Process] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.processes.folder / "output"

    def node(self, name: str, key: Path, certificate: Path | None) -> tuple[Process, int]:
        """Start a SuperNode with a key; without a certificate it speaks no TLS."""
        port, options = free_port(), ["--isolation", "process", "--max-wait-time"]
        security = ["--insecure"]
        if certificate is not None:
            security = ["--root-certificates", str(certificate)]
            security += ["--auth-supernode-private-key", str(key)]
        options.append("5" if certificate is None else "20")
        fleet = self.superlink.fleet
        return start_supernode(
            self.processes, name, fleet, *options, port=port, security=security
        ), port

    def join(self, hospital: str, index: int, **entries: Any) -> None:
        """Start a SuperNode with the hospital's key, and the site beside it."""
        key, certificate = private_key(self.keys, hospital), self.keys / "public" / "ca.crt"
        node, port = self.node(f"{hospital}-node", key, certificate)
        self.processes.wait_for(hospital, lambda: listening(port), seconds=180, watch=[node])
        place = {"partition-id": index, "num-partitions": len(MEMBERS)}
        self.nodes[hospital] = start_site(self.processes, hospital, port, **place, **entries)

    def allow(self, site: str, run: str, *, watch: list[Process]) -> None:
        """Wait until a run asks at a site, and say yes, as a person there types it."""
        settings = self.processes.folder / site / "site.yaml"
        command = ["fedstrata", "site", "approvals", "--settings", str(settings)]

        def typed(*words: str) -> str:
            environment = self.processes.environment()
            done = subprocess.run(
                [*command, *words], env=environment, capture_output=True, text=True, check=True
            )
            return done.stdout

        self.processes.wait_for(
            f"{site} is asked", lambda: run in typed(), seconds=240, watch=watch, poll=1.0
        )
        (line,) = [line for line in typed().splitlines() if run in line]
        typed("allow", line.split()[0])


def private_key(keys: Path, hospital: str) -> Path:
    return keys.with_name("at-hospitals") / hospital / "supernode.key"


def signature_of(consortium: Consortium, overrides: str) -> str:
    key = consortium.keys.with_name("signing") / "bundle.key"
    command = ["fedstrata", "sign", "--key", str(key), "-c", f"overrides={overrides}"]
    environment = consortium.processes.environment()
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


def driver_of(consortium: Consortium, name: str, **run_config: str) -> list[str]:
    """Return the command that sees a run to its end."""
    entries = {"output-dir": str(consortium.output), **run_config}
    pairs = [word for key, value in entries.items() for word in ("-c", f"{key}={value}")]
    command = ["fedstrata", "consortium", "run", consortium.superlink.name]
    return [*command, "--name", name, *pairs]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, body: Path) -> Iterator[Consortium]:
    with Processes(tmp_path_factory.mktemp("consortium"), threads=None) as processes:
        keys = new_consortium(processes.folder / "keys", ["127.0.0.1", "localhost"], HOSPITALS)
        superlink = SuperLink(processes, consortium=keys)
        superlink.start()
        command = ["fedstrata", "consortium", "register", str(keys), superlink.name]
        processes.finish(processes.start("register", command), seconds=300)
        yield Consortium(processes, superlink, keys, body)


def refused(consortium: Consortium, node: Process, *words: str) -> None:
    """Wait until a SuperNode gave up, and check what it says."""
    consortium.processes.wait_for("it gives up", lambda: node.ended, seconds=480)
    assert node.popen.returncode != 0
    assert any(word in node.text for word in words), node.text


def test_registration_can_be_repeated(consortium: Consortium) -> None:
    path = consortium.keys / "roster" / "roster.yaml"
    roster = yaml.safe_load(path.read_text())["sites"]
    assert sorted(roster) == sorted(hospital.name for hospital in HOSPITALS)
    assert len({entry["node-id"] for entry in roster.values()}) == len(HOSPITALS)
    before = path.read_bytes()
    command = [
        "fedstrata",
        "consortium",
        "register",
        str(consortium.keys),
        consortium.superlink.name,
    ]
    again = subprocess.run(
        command,
        env=consortium.processes.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"site-00: node {roster['site-00']['node-id']}" in again.stdout
    assert path.read_bytes() == before
    path.unlink()
    subprocess.run(command, env=consortium.processes.environment(), timeout=60, check=True)
    assert path.read_bytes() == before


def test_a_site_without_tls_is_rejected(consortium: Consortium) -> None:
    key = private_key(consortium.keys, "site-00")
    node, _ = consortium.node("plaintext", key, None)
    refused(consortium, node, "UNAVAILABLE", "SuperLink", "connect")
    assert "SuperNode ID" not in node.text


def test_a_key_that_is_not_registered_is_rejected(consortium: Consortium, tmp_path: Path) -> None:
    others = new_consortium(
        tmp_path / "others", ["127.0.0.1"], [Hospital("rejected_site", "gender")]
    )
    key = private_key(others, "rejected_site")
    node, _ = consortium.node("rejected_site", key, consortium.keys / "public" / "ca.crt")
    refused(consortium, node, "No SuperNode found with the given public key")
    assert "SuperNode ID" not in node.text


def test_a_site_rejects_a_server_of_another_authority(
    consortium: Consortium, tmp_path: Path
) -> None:
    others = new_consortium(tmp_path / "others", ["127.0.0.1"])
    key = private_key(consortium.keys, "site-00")
    node, _ = consortium.node("deceived", key, others / "public" / "ca.crt")
    refused(consortium, node, "UNAVAILABLE", "CERTIFICATE", "connect")
    assert "SuperNode ID" not in node.text


def test_an_impostor_is_rejected_and_a_run_outlives_its_driver(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing = consortium.keys.with_name("signing")
    trusted = {"bundles": {"signed-by": [(signing / "bundle.pub").read_text().strip()]}}
    consortium.join(
        "impostor", 1, site="site-01", task="pose"
    )  # a registered key under another's name
    consortium.join("site-00", 0, task="gender", **trusted)
    consortium.join("site-01", 1, task="pose")
    consortium.join("site-02", 2, task="gender", approve="ask")
    longer = ("strategy.on_site_error=exclude", "strategy.join_timeout=300")
    overrides = federation.overrides(consortium.body, *longer)
    signature = signature_of(consortium, overrides)
    driver = driver_of(consortium, "march", overrides=overrides, signature=signature)
    run = consortium.processes.start("killed-driver", driver)
    superlink = SuperLinkControl(consortium.superlink.name)
    monkeypatch.setenv("FLWR_HOME", str(consortium.processes.flower_home))
    consortium.processes.wait_for(
        "the run is there", lambda: bool(superlink.runs()), seconds=240, watch=[run], poll=1.0
    )
    run.kill()
    run = consortium.processes.start("driver", driver)
    consortium.allow("site-02", "march", watch=[run])
    consortium.processes.finish(run, seconds=600)
    assert run.popen.returncode == 0, consortium.processes.logs()
    where = f"results: {consortium.output / 'march' / 'results.json'} on "
    assert where in run.text
    assert "fetch them: ssh " in run.text
    (path,) = consortium.output.glob("*/results.json")
    results = json.loads(path.read_text())
    assert path.parent.name == "march"
    (submitted,) = superlink.runs()
    assert (submitted.name, submitted.status) == ("march", "finished:completed")
    assert superlink.rounds(submitted.id) == len(results["rounds"])
    assert sorted(results["final"]["sites"]) == MEMBERS
    unauthorized = json.dumps([record.get("unauthorized") for record in results["rounds"]])
    assert "impostor" in unauthorized
    assert "waiting for approval at site-02" in consortium.processes.logs()
    assert "site-01" in unauthorized
    for member in MEMBERS:
        compare_logs(consortium, member)


def compare_logs(consortium: Consortium, site: str) -> None:
    """Compare what really left a site with what really arrived, as the coordinator types it."""
    log = consortium.processes.folder / site / "guard" / site / "audit.jsonl"
    command = ["fedstrata", "consortium", "audit", str(consortium.output / "march")]
    done = subprocess.run(
        [*command, "--compare", str(log)],
        env=consortium.processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    server = read_and_verify(consortium.output / "march" / "audit.jsonl").lines
    arrived = {
        e.fields["kind"] for e in server if e.fields.get("site") == site and "kind" in e.fields
    }
    assert {"query", "train", "evaluate"} <= arrived
    assert int(re.search(rf"{site}: (\d+) payloads", done.stdout)[1]) > 6, done.stdout  # type: ignore[index]


def test_a_run_outlives_the_superlink(consortium: Consortium) -> None:
    """ServerApps are in a process of their own, which a SuperLink that crashes leaves behind."""
    longer = ("strategy.on_site_error=exclude", "strategy.join_timeout=300", "strategy.rounds=4")
    overrides = federation.overrides(consortium.body, *longer)
    signature = signature_of(consortium, overrides)
    driver = driver_of(consortium, "april", overrides=overrides, signature=signature)
    run = consortium.processes.start("april", driver)
    consortium.allow("site-02", "april", watch=[run])
    consortium.processes.wait_for(
        "round 1",
        lambda: (consortium.output / "april" / "checkpoints" / "round-000001").exists(),
        seconds=240,
        watch=[run],
    )
    consortium.superlink.kill()
    consortium.superlink.start()
    consortium.processes.finish(run, seconds=900)
    assert run.popen.returncode == 0, consortium.processes.logs()
    results = federation.read_results(consortium.output, "april")
    assert [record["round"] for record in results["rounds"]] == [1, 2, 3, 4]


def test_no_other_user_can_read_a_private_key(consortium: Consortium) -> None:
    state = consortium.processes.folder / "link"
    assert state.stat().st_mode & 0o077 == 0
    private = [*consortium.keys.parent.rglob("*.key"), *state.glob("superlink.db*")]
    assert len(private) > len(HOSPITALS)
    for path in private:
        assert path.stat().st_mode & 0o077 == 0, path
