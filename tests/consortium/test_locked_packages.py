"""What the image installs: the versions that the tests passed with, each file by its hash."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKED = ("build-requirements.txt", "requirements.txt")
EXTRAS = ("text", "medical")  # what the image can read beside pictures and tables
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
Description: GNU C Library
 Version: 1

Package: gone
Status: deinstall ok config-files
Version: 1
"""


def sbom() -> ModuleType:
    """Return docker/sbom.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "docker" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SBOM = sbom()


def pins(path: Path) -> dict[str, str]:
    return {SBOM.normalized(name): version for name, version in _PIN.findall(path.read_text())}


@pytest.mark.parametrize("name", LOCKED)
def test_every_package_has_hashes(name: str) -> None:
    text = (ROOT / "docker" / name).read_text()
    hashes = SBOM.hashes_in(text)
    assert len(hashes) == len(pins(ROOT / "docker" / name))
    assert all(hashes.values())


def test_the_image_has_the_versions_that_the_tests_passed_with() -> None:
    tested = pins(ROOT / "constraints.txt")
    for name in LOCKED:
        locked = pins(ROOT / "docker" / name)
        both = locked.keys() & tested.keys()
        assert {each: locked[each] for each in both} == {each: tested[each] for each in both}


def test_all_that_the_project_needs_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][each] for each in EXTRAS]
    needed = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {SBOM.normalized(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in needed}
    assert names <= pins(ROOT / "docker" / "requirements.txt").keys()


def test_the_lock_is_made_with_the_extras_of_the_image() -> None:
    (line,) = (
        line
        for line in (ROOT / "docker" / "lock").read_text().splitlines()
        if line.startswith("compile requirements.txt")
    )
    assert re.findall(r"--extra (\S+)", line) == list(EXTRAS)


def test_the_image_has_no_ray() -> None:
    """It is for simulations alone, and large; what bounds grpcio comes with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "ray" not in pins(ROOT / "docker" / "requirements.txt")
    assert not [each for each in project["dependencies"] if "simulation" in each or "<1.80" in each]
    (bounded,) = (each for each in project["optional-dependencies"]["simulation"] if "grpc" in each)
    assert bounded.endswith("<1.80")


def test_the_build_takes_nothing_without_a_hash() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    installs = [part for line in lines for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    for part in installs:
        assert "--require-hashes" in part or "--no-deps --no-build-isolation /src" in part, part
        assert "--only-binary :all:" in part or "--no-build-isolation" in part, part


def test_the_bill_names_each_installed_package_once() -> None:
    command = [sys.executable, str(ROOT / "docker" / "sbom.py"), str(ROOT / "docker" / LOCKED[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    bill = json.loads(done.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    components = {each["purl"]: each for each in bill["components"]}
    assert len(components) == len(bill["components"])
    flwr = next(each for purl, each in components.items() if purl.startswith("pkg:pypi/flwr@"))
    assert re.fullmatch(r"[0-9a-f]{64}", flwr["properties"][0]["value"])
    assert any(purl.startswith("pkg:pypi/fedstrata@") for purl in components)


def test_debians_packages_are_those_that_are_installed() -> None:
    (found,) = SBOM.debian_components(STATUS)
    assert found["purl"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64"


def test_nothing_decrypts_pkcs7() -> None:
    """Or the advisory of cryptography before 50 would matter: docs/security.md says it does not."""
    flower = importlib.util.find_spec("flwr")
    assert flower is not None
    assert flower.submodule_search_locations
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    folders = [ROOT / name for name in packages["targets"]["wheel"]["packages"]]
    folders += map(Path, flower.submodule_search_locations)
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(files) > 500
    assert [path for path in files if "pkcs7" in path.read_text(errors="replace").lower()] == []
