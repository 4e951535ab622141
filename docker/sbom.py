"""Prints what an image has in it, as CycloneDX JSON: Debian's packages and Python's.

`python docker/sbom.py requirements.txt` is run in the build, and reads no network. Python's packages
get the hashes of their files that the build accepted; their licenses are as they say themselves.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

DPKG = Path("/var/lib/dpkg/status")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill(components: Iterable[dict[str, Any]], version: str) -> dict[str, Any]:
    """Return the bill of materials of fedstrata's image."""
    name = {"type": "container", "name": "fedstrata", "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"bom-ref": "fedstrata", **name}},
        "components": sorted(components, key=lambda each: str(each["purl"])),
    }


def python_component(
    package: Distribution, hashes: dict[tuple[str, str], list[str]]
) -> dict[str, Any]:
    """Return an installed package of Python's; its hashes are of the files on PyPI."""
    name, version = normalized(package.metadata["Name"]), package.version
    component = _component(name, version, f"pkg:pypi/{name}@{version}")
    said = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
    if said and "\n" not in said:  # some have the whole text there
        component["licenses"] = [{"license": {"name": said[:200]}}]
    files = hashes.get((name, version), [])
    if files:
        # Which of them was installed depends on the machine; a reader looks its own up.
        component["properties"] = [{"name": "pypi:sha256", "value": each} for each in files]
    return component


def debian_components(status: str) -> list[dict[str, Any]]:
    """Return the installed packages in the text of dpkg's status file."""
    found = []
    for entry in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version}?arch={fields.get('Architecture', 'all')}"
            found.append(_component(name, version, purl))
    return found


def hashes_in(requirements: str) -> dict[tuple[str, str], list[str]]:
    """Return the SHA-256 hashes in a requirements file, by name and version."""
    found: dict[tuple[str, str], list[str]] = {}
    files: list[str] = []
    for line in requirements.splitlines():
        if entry := _ENTRY.match(line):
            files = found.setdefault((normalized(entry[1]), entry[2]), [])
        files += _HASH.findall(line)
    return found


def normalized(name: str) -> str:
    """Return a package's name as PyPI has it in addresses."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> None:
    """Print the bill of this machine."""
    hashes = hashes_in("\n".join(Path(name).read_text() for name in sys.argv[1:]))
    installed = {normalized(each.metadata["Name"]): each for each in distributions()}
    components = [python_component(each, hashes) for each in installed.values()]
    components += debian_components(DPKG.read_text() if DPKG.exists() else "")
    print(json.dumps(bill(components, installed["fedstrata"].version), indent=1))


if __name__ == "__main__":
    main()
