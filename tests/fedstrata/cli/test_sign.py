"""`fedstrata sign`: prints a signature that a site accepts, or says why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.build import build_fab_from_disk

from fedstrata.cli.sign import main
from fedstrata.protocol import kinds
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
    said, bundle = capsys.readouterr(), build_fab_from_disk(ROOT)
    signatures = said.out.strip()
    assert "plan 2: it starts from no checkpoint" in said.err
    assert len(signatures.split()) == 2  # one for each plan of the sweep
    for seed in (1, 2, 3):
        config = compose("images", [f"seed={seed}"])
        plan = plan_for(config, federation="march-1", weights="").to_json()
        if seed < 3:
            require_signature(bundle, plan, signatures, [KEY.public_key()], kinds.TRAIN)
            continue
        with pytest.raises(Refused):
            require_signature(bundle, plan, signatures, [KEY.public_key()], kinds.TRAIN)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("overrides=train.batch=8", "train has no 'batch'"),
        ("experimant=images", "experimant"),
        ("images", "write key=value"),
        ("overrides=weights=file weights.path=/nowhere/w.pth", "cannot be read here: .*any"),
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


@pytest.mark.parametrize(
    ("given", "start", "words"),
    [
        ("b" * 64, "b" * 64, f"starts from checkpoint {'b' * 64}"),
        ("any", "any", "from ANY checkpoint"),
    ],
)
def test_a_checkpoint_that_is_not_here_is_named_or_left_open(
    key: Path, capsys: pytest.CaptureFixture[str], given: str, start: str, words: str
) -> None:
    chosen = "overrides=weights=file weights.path=/nowhere/w.pth"
    main(["--key", str(key), str(ROOT), "-c", chosen, "--checkpoint", given])
    said = capsys.readouterr()
    assert said.out.startswith(f"{start}:")
    assert words in said.err


def test_a_checkpoint_is_named_by_its_whole_hash(
    key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--key", str(key), str(ROOT), "--checkpoint", "abc"])
    assert "write 64 hexadecimal digits" in capsys.readouterr().err
