"""Files are fetched by torchvision, once, and only where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from torchvision import datasets

from client_app.data.pflbench.download import download
from fedstrata.support.errors import UserError
from tests.helpers.published_files import mnist_files


def test_missing_files_are_fetched_once(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def fetch(root: str, *, download: bool) -> None:
        asked.append(download)
        mnist_files(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr(datasets, "MNIST", fetch)
    download("mnist", tmp_path)
    download("mnist", tmp_path)
    assert asked == [True]


def test_what_cannot_be_fetched_is_a_sentence(tmp_path: Path, monkeypatch) -> None:
    def fetch(root: str, *, download: bool) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr(datasets, "FashionMNIST", fetch)
    with pytest.raises(UserError, match=r"cannot fetch FashionMNIST.*write data.download=false"):
        download("fashion_mnist", tmp_path)
