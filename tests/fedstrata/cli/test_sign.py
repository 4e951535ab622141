"""`fedstrata sign`: prints a signature that a site accepts, or says why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.build import build_fab_from_disk

from fedstrata.cli.sign import main
from site_guard.signatures import require_signature
from tests.helpers.tiny_app import PYPROJECT

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def test_what_is_printed_signs_the_bundle_that_flower_builds(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PYPROJECT)
    (app / "app.py").write_text("app = None")
    main(["--key", str(key), str(app)])
    signature = capsys.readouterr().out.strip()
    require_signature(build_fab_from_disk(app), signature, [KEY.public_key()])


def test_a_folder_without_an_app_is_refused_in_words(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--key", str(key), str(tmp_path)])
    assert f"{tmp_path} is no app that can be bundled" in str(ended.value.code)
    assert capsys.readouterr().out == ""
