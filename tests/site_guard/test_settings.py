"""site.yaml is read strictly: it means what the hospital wrote, or the mistake is named."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from client_app.node_config import read_node_settings
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from site_guard.plan_rules import PlanRules
from site_guard.settings import Bundles, SiteSettings, read_settings

ENTRIES: dict[str, Any] = {
    "site": "hospital-a",
    "task": "gender",
    "data": "/data",
    "state": "/state",
    "cache": "/cache",
    "share": ["common", "task"],
}


def written(folder: Path, **entries: object) -> Path:
    path = folder / "site.yaml"
    record = {key.replace("_", "-"): value for key, value in (ENTRIES | entries).items()}
    path.write_text(yaml.safe_dump({k: v for k, v in record.items() if v is not None}))
    return path


def test_the_app_gets_the_settings_of_the_file(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, max_steps=5, threads=2))
    site = read_node_settings(settings.node_config(), {"data-root": "/etc", "output-dir": "/etc"})
    assert (site.name, site.task, site.max_steps, site.threads) == ("hospital-a", "gender", 5, 2)
    assert (str(site.data_root), str(site.state_dir), str(site.cache_dir)) == (
        "/data",
        "/state",
        "/cache",
    )
    assert not site.simulated


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"site": None}, "site"),
        ({"shares": ["common"]}, "'share'"),
        ({"share": ["personal"]}, "never leave"),
        ({"share": "common"}, "array"),
        ({"site": "../a"}, "letters"),
        ({"data": "here"}, "absolute"),
        ({"data": "C:\\Pictures"}, "drive C: is /mnt/c in WSL"),
        ({"state": "D:/state"}, "state must be an absolute path, got 'D:/state'.*/mnt/d"),
        ({"hours": ["8-10"]}, "20:00-06:00"),
        ({"hours": ["20:00-20:00"]}, r"write \[\] for always"),
        ({"keep": ["type:BatchNorm2d"]}, "'type:BatchNorm2d', which matches no tensor"),
        ({"keep": ["first:30"]}, "'first:30'"),
        ({"keep": ["..."]}, "running_mean"),
        ({"keep": [""]}, "''"),
        ({"keep": ["layer4."]}, "'layer4.'"),
        ({"classes": []}, "two or more, each once"),
        ({"classes": ["benign", "benign"]}, "two or more, each once"),
        ({"classes": "benign"}, "array"),
        ({"classes": [0, 1]}, "`str`"),
        ({"device": "gpu"}, "cuda:N, got 'gpu'"),
        ({"device": "cuda:"}, "cuda:N"),
        ({"errors": "none"}, "full or brief"),
        (
            {"bundles": {"signed-by": ["ssh-rsa AAAA"]}},
            "bundles.signed-by: 'ssh-rsa AAAA' is no key",
        ),
        ({"gpu_memory": 0}, "share"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"bundles": {"signed": []}}, "'signed-by'"),
        ({"bundles": {"keep-warm": -1}}, "keep-warm"),
    ],
)
def test_a_mistake_is_named_with_its_entry(
    tmp_path: Path, entries: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as error:
        read_settings(written(tmp_path, **entries))
    assert "site.yaml" in str(error.value)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_bytes_are_refused(text: bytes) -> None:
    class Memory:
        def read_bytes(self) -> bytes:
            return text

    with pytest.raises(UserError):
        read_settings(Memory())  # type: ignore[arg-type]


def settings(**entries: Any) -> SiteSettings:
    return SiteSettings(**(ENTRIES | entries))


@pytest.mark.parametrize(
    ("hours", "at", "allowed"),
    [
        ((), "12:00", True),
        (("20:00-06:00",), "23:30", True),
        (("20:00-06:00",), "05:59", True),
        (("20:00-06:00",), "06:00", False),
        (("20:00-06:00", "12:00-13:00"), "12:30", True),
        (("12:00-13:00",), "11:59", False),
    ],
)
def test_training_begins_only_within_the_hours(
    hours: tuple[str, ...], at: str, allowed: bool
) -> None:
    now = datetime.fromisoformat(f"2026-03-01T{at}")
    if allowed:
        settings(hours=hours).refuse_outside_hours(now)
        return
    with pytest.raises(Refused, match=at):
        settings(hours=hours).refuse_outside_hours(now)


def test_keep_matches_paths_and_globs() -> None:
    expected_items = settings(keep=("head.out", "*.running_mean", "layer[34].*"))
    assert expected_items.stays("head.out.weight")
    assert expected_items.stays("layer4.bn.running_mean")
    assert not expected_items.stays("head.output.weight")


@pytest.mark.parametrize("glob", ["layer4.*.bn1", "*.bn1", "layer[34]", "layer4.0"])
def test_a_glob_of_modules_keeps_what_is_in_them(glob: str) -> None:
    """As the run's own groups take it: a glob may name a module."""
    assert settings(keep=(glob,)).stays("layer4.0.bn1.weight")
    assert not settings(keep=(glob,)).stays("layer2.0.conv1.weight")


def test_the_documented_file_is_one() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "site.yaml"
    found = read_settings(path)
    assert set(yaml.safe_load(path.read_text())) >= set(ENTRIES)
    assert found.hours == ("20:00-06:00",)


def test_the_log_says_who_decides_and_which_rules_are_not_usual() -> None:
    assert "ANY APP WITH ANY PLAN" in settings().who_decides()
    assert settings().who_decides().endswith("plan rules: as by default")
    key = Ed25519PrivateKey.generate().public_key()
    public = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    signed = settings(bundles=Bundles(signed_by=(public,)), plan=PlanRules(min_steps=1))
    assert "a signature of one of 1 keys; plan rules: min-steps 1" in signed.who_decides()
    assert "a person here allows it" in settings(approve="ask").who_decides()


def test_what_the_guard_keeps_is_beside_the_state_of_the_app() -> None:
    assert settings(state="/srv/fed/sites").guard_folder == Path("/srv/fed/guard/hospital-a")
    assert settings(guard="/srv/guard").guard_folder == Path("/srv/guard")
