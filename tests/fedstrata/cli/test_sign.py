"""`fedstrata sign`: prints a signature that a site accepts, or says why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.build import build_fab_from_disk

from fedstrata.cli.sign import main
from fedstrata.protocol.limits import Refused
from server_app.compose import compose
from site_guard.signatures import require_signature
from strategies.config import plan_for
from tests.helpers.source import ROOT

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def test_what_is_printed_signs_the_bundle_and_the_plan_of_the_run(
    key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--key", str(key), str(ROOT), "-c", "experiment=images", "-c", "overrides=seed=1,2"])
    signatures, bundle = capsys.readouterr().out.strip(), build_fab_from_disk(ROOT)
    assert len(signatures.split()) == 2  # one for each plan of the sweep
    for seed in (1, 2, 3):
        config = compose("images", [f"seed={seed}"])
        plan = plan_for(config, federation="march-1", weights="a" * 64).to_json()
        if seed < 3:
            require_signature(bundle, plan, signatures, [KEY.public_key()])
            continue
        with pytest.raises(Refused):
            require_signature(bundle, plan, signatures, [KEY.public_key()])


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("overrides=train.batch=8", "train has no 'batch'"),
        ("experimant=images", "experimant"),
        ("images", "write key=value"),
    ],
)
def test_a_configuration_that_is_wrong_is_not_signed(key: Path, pair: str, words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        main(["--key", str(key), str(ROOT), "-c", pair])


def test_a_folder_without_an_app_is_refused_in_words(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--key", str(key), str(tmp_path)])
    assert f"{tmp_path} is no app that can be bundled" in str(ended.value.code)
    assert capsys.readouterr().out == ""
