"""The testbed's hospitals with different networks, and a short run of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from site_guard.settings import SiteSettings, read_settings

EXAMPLE = Path(__file__).resolve().parents[2] / "docker" / "different-networks"
FEW = "data.train=24 data.validation=8 data.test=24 data.identities=12 strategy.rounds=2"


def overrides() -> list[str]:
    """Return what `docker/testbed up --networks` runs."""
    lines = (EXAMPLE / "overrides").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def hospitals() -> Mapping[str, SiteSettings]:
    """Return each hospital's settings by its name."""
    read = [read_settings(path) for path in sorted(EXAMPLE.glob("hospital-*.yaml"))]
    return {settings.site: settings for settings in read}
