"""A page as headless Chromium shows it; tests are skipped where there is none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_CONSOLE = re.compile(r":CONSOLE(?::|\()\d+\)?\] (.*)")


@dataclass(frozen=True)
class Seen:
    """What Chromium made of a page.

    Parameters
    ----------
    html : str
        The document after loading.
    messages : list of str
        What it wrote to the console.
    asked : list of str
        The addresses that the page asked for.
    """

    html: str
    messages: list[str]
    asked: list[str]


def chromium() -> str:
    """Return the path of Chromium; skip the test where none is installed."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    return found


def seen_by_chromium(url: str, profile: Path) -> Seen:
    """Open a page and return what came of it."""
    log = profile.with_suffix(".json")
    done = subprocess.run(
        [
            chromium(),
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *(f"--user-data-dir={profile}", f"--log-net-log={log}", "--virtual-time-budget=3000"),
            *("--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return Seen(done.stdout, _CONSOLE.findall(done.stderr), _asked(log))


def _asked(log: Path) -> list[str]:
    """Return the addresses in a log of the network: those of the page, not of the browser itself."""
    events = json.loads(log.read_text())["events"]
    found = [event.get("params", {}) for event in events]
    return sorted(
        {
            params["url"]
            for params in found
            if "url" in params and str(params.get("initiator", "")) not in ("", "not an origin")
        }
    )
