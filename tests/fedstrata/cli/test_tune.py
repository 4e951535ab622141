"""`fedstrata tune` says what the model was worth before and after, and where it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fedstrata.cli.tune import main
from models.model_file import read_card
from tests.helpers.runs import GROUPS, SMALL
from tests.loopback import simulate


def test_a_newcomer_tunes_the_public_model(
    own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    results, _ = simulate(tmp_path, "faces", [*SMALL, *GROUPS], sites=2)
    capsys.readouterr()
    named = f"{results['run']}::pose"
    words = ["partition-id=3", "num-partitions=4", "site=east", "deployment.epochs=1"]
    main([named, "--runs", str(tmp_path), *words])
    said = capsys.readouterr().out
    assert "site east: 4 parameters of task, personal fine-tuned on 24 examples, 1 epochs" in said
    assert re.search(r"test accuracy +[01]\.\d{4} +[01]\.\d{4}", said)
    found = re.search(r"the site's model: (\S+)", said)
    assert found is not None
    assert own_home in Path(found[1]).parents
    assert read_card(Path(found[1])).site == "east"


def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "m.safetensors"), "data-root=/data"])
    assert "no such file" in capsys.readouterr().err
