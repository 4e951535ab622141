"""The binary version of CIFAR is read; the pickled one never is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.pflbench.cifar import read_cifar10, read_cifar100
from fedstrata.support.errors import UserError
from tests.helpers.published_files import cifar_files, cifar_records

LARGEST = 1 << 20


def test_ten_classes_come_from_six_files(tmp_path: Path) -> None:
    made = read_cifar10(cifar_files(tmp_path / "cifar-10-batches-bin", fine=False).parent, LARGEST)
    assert made.classes[0] == "airplane"
    assert made.labels.tolist() == [*range(10)] * 12
    assert made.tested.tolist() == [False] * 100 + [True] * 20
    first = made.values(np.array([0]))[0]
    red = cifar_records(20, 1, 10)[0, 1:1025].reshape(32, 32)  # the first plane, row by row
    assert first.shape == (32, 32, 3)
    assert first[..., 0].tolist() == red.tolist()


def test_a_hundred_classes_are_the_fine_ones(tmp_path: Path) -> None:
    made = read_cifar100(cifar_files(tmp_path, fine=True), LARGEST)
    assert made.labels.tolist() == [*range(100)] * 4
    assert len(made.classes) == 100


@pytest.mark.parametrize("read", [read_cifar10, read_cifar100])
@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1", "meta"])
def test_pickles_are_never_opened(tmp_path: Path, read, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(UserError, match=r"pickles.*unpack cifar-10+-binary\.tar\.gz"):
        read(tmp_path, LARGEST)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no train\.bin"):
        read_cifar100(tmp_path, LARGEST)
    cifar_files(tmp_path, fine=True)
    (tmp_path / "test.bin").write_bytes(b"x" * 3075)
    with pytest.raises(UserError, match="3075 bytes are no whole number of records of 3074"):
        read_cifar100(tmp_path, LARGEST)
    (tmp_path / "test.bin").unlink()
    with pytest.raises(UserError, match=r"has no test\.bin"):
        read_cifar100(tmp_path, LARGEST)
    with pytest.raises(UserError, match=r"or more than data\.largest_mb allows"):
        read_cifar100(tmp_path, 1000)


def test_a_label_too_high_is_named(tmp_path: Path) -> None:
    cifar_files(tmp_path, fine=False)
    records = cifar_records(20, 1, 11)
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    with pytest.raises(UserError, match="has the label 10, and the data set has 10 classes"):
        read_cifar10(tmp_path, LARGEST)
