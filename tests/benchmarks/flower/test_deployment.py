"""The commands and files with which a SuperLink, SuperNodes and sites are started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.flower.deployment import ANY_PLAN, SuperLink, start_site, start_supernode
from benchmarks.flower.processes import Process, Processes
from site_guard.settings import read_settings
from tests.helpers.plans import plan_of


class Noted(Processes):
    """Notes the commands instead of starting them; what is waited for has happened."""

    def start(self, name: str, command: Any, environment: Any = None) -> Process:
        self.command, self.given = list(command), environment
        return Process(name, None, self.folder / name)  # type: ignore[arg-type]

    def wait_for(self, what: str, *args: Any, **kwargs: Any) -> None:
        pass


@pytest.fixture
def processes(tmp_path: Path) -> Noted:
    processes = Noted(tmp_path)
    processes.flower_home.mkdir()
    return processes


def test_a_superlink_of_a_deployment_has_a_database_and_a_fleet_port(processes: Noted) -> None:
    superlink = SuperLink(processes)
    superlink.start()
    assert processes.command[:3] == ["fedstrata", "superlink", "--insecure"]
    assert f"127.0.0.1:{superlink.fleet}" in processes.command
    assert "--state" in processes.command
    SuperLink(processes, stock=True).start()
    assert processes.command[:2] == ["flower-superlink", "--insecure"]
    assert "--database" in processes.command
    assert "insecure = true" in (processes.flower_home / "config.toml").read_text()


def test_a_simulation_has_neither(processes: Noted) -> None:
    SuperLink(processes, "it", simulation=True).start()
    assert "--simulation" in processes.command
    assert not {"--database", "--fleet-api-address"} & set(processes.command)
    assert "[superlink.it]" in (processes.flower_home / "config.toml").read_text()


def test_a_consortium_has_tls_and_apps_in_a_process_of_their_own(
    processes: Noted, tmp_path: Path
) -> None:
    superlink = SuperLink(processes, consortium=tmp_path / "us")
    superlink.start()
    assert processes.command[0] == "flower-superexec"
    assert f"127.0.0.1:{superlink.appio}" in processes.command
    assert str(tmp_path / "us" / "serverapp" / "appio.secret") in processes.command
    assert processes.given == {"FEDSTRATA_ROSTER": str(tmp_path / "us" / "roster" / "roster.yaml")}
    certificate = tmp_path / "us" / "public" / "ca.crt"
    assert f'"{certificate}"' in (processes.flower_home / "config.toml").read_text()


def test_a_stock_superlink_has_the_consortiums_certificate_and_keys_but_no_roster(
    processes: Noted, tmp_path: Path
) -> None:
    SuperLink(processes, consortium=tmp_path / "us", stock=True).start()
    command = processes.command
    assert command[0] == "flower-superlink"
    assert "--insecure" not in command
    assert command[command.index("--ssl-keyfile") + 1] == str(tmp_path / "us/superlink/server.key")
    assert "--enable-supernode-auth" in command
    assert processes.given is None
    assert "root-certificates" in (processes.flower_home / "config.toml").read_text()


def test_a_connection_that_is_there_is_not_written_again(processes: Noted) -> None:
    superlink = SuperLink(processes)
    superlink.start()
    config = processes.flower_home / "config.toml"
    os.utime(config, (0, 1.0))
    superlink.start()
    assert config.stat().st_mtime == 1.0


def test_a_supernode_with_a_port_leaves_the_app_to_the_site(processes: Noted) -> None:
    start_supernode(processes, "a", 9, node_config={"data": Path("/x y"), "partition-id": 1})
    assert processes.command[0] == "flower-supernode"
    assert processes.command[-1] == 'data="/x y" partition-id=1'
    start_supernode(processes, "a", 9, port=8)
    assert processes.command[:2] == ["fedstrata", "node"]
    assert processes.command[-1] == "127.0.0.1:8"


def test_a_site_has_a_folder_of_its_own_and_shares_what_its_settings_say(
    processes: Noted, tmp_path: Path
) -> None:
    start_site(processes, "a", 8, task="gender")
    settings = yaml.safe_load((tmp_path / "a" / "site.yaml").read_text())
    assert settings["state"] == str(tmp_path / "a" / "state")
    assert (settings["share"], settings["task"]) == (["common", "task"], "gender")
    start_site(processes, "a", 8, share=["common"])
    settings = yaml.safe_load((tmp_path / "a" / "site.yaml").read_text())
    assert settings["share"] == ["common"]


def test_a_site_that_is_measured_accepts_perceptrons_and_rounds_of_one_batch(
    processes: Noted, tmp_path: Path
) -> None:
    start_site(processes, "a", 8, task="gender", plan=ANY_PLAN)
    rules = read_settings(tmp_path / "a" / "site.yaml").plan
    one_batch = plan_of("har", "train.epochs=null", "train.steps=1", "train.batch_size=1")
    rules.check_plan(one_batch)
    rules.check_examples(one_batch, 1)
