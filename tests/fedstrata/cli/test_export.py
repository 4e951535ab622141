"""`fedstrata export` writes a model, and says what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedstrata.cli.export import FORMATS, main
from models.export import FORMATS as WRITTEN
from tests.helpers.model_cards import card, written


def test_a_model_is_written_with_its_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = written(tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    main([str(tmp_path / "m.safetensors"), "--format", "torchscript", "--prepared"])
    said = capsys.readouterr().out
    assert "last model of task animal after round 3" in said
    assert "it takes float32 values (batch, 3, 28, 28), prepared as the card says" in said
    x = torch.rand(2, 3, 28, 28)
    assert torch.allclose(torch.jit.load("animal-north-last.pt")(x), network(x), atol=1e-5)
    assert json.loads(Path("animal-north-last.pt.card.json").read_text())["site"] == "north"


def test_a_mistake_ends_with_one_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "m.safetensors")
    for model, output, said in (
        ("none.safetensors", "m.pth", "no such file"),
        ("m.safetensors", "m.pth", "torchvision has no small_cnn"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path / model), "--format=torchvision", f"--output={tmp_path / output}"])
        assert ended.value.code == 1
        assert said in capsys.readouterr().err


def test_untrained_layers_of_a_public_model_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "m.safetensors", card(state="public", site="", groups={"personal": 2}))
    output = tmp_path / "out.safetensors"
    main([str(tmp_path / "m.safetensors"), "--format=safetensors", f"--output={output}"])
    assert "2 personal tensors are as the run began with them" in capsys.readouterr().out


def test_all_formats_can_be_named() -> None:
    assert set(FORMATS) == WRITTEN.keys()
