"""MNIST's idx files are read whole or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_app.data.pflbench.idx import has_files, read_fashion_mnist, read_idx, read_mnist
from fedstrata.support.errors import UserError
from tests.helpers.published_files import idx, mnist_files

LARGEST = 1 << 20
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw"])
def test_the_four_files_are_found_packed_or_not(tmp_path: Path, folder: str, packed: bool) -> None:
    mnist_files(tmp_path / folder, packed=packed)
    made = read_mnist(tmp_path, LARGEST)
    assert made.values(np.arange(240)).shape == (240, 28, 28, 1)
    assert made.labels[:12].tolist() == [*range(10), 0, 1]
    assert int(made.tested.sum()) == 40
    assert has_files(tmp_path, "MNIST")


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx(IMAGES), mtime=0))
    assert read_idx(path, 3, LARGEST).tolist() == IMAGES.tolist()


def test_clothes_have_their_names(tmp_path: Path) -> None:
    assert read_fashion_mnist(mnist_files(tmp_path), LARGEST).classes[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx(IMAGES)[:-1], "ends after 23 of 24 bytes"),
        (idx(IMAGES) + b"x", "has more than the 24 bytes"),
        (idx(IMAGES[0]), "no idx file of bytes with 3 axes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "data.largest_mb allows 1 MiB"),
        (b"\0\0\x08\x03" + b"\0" * 12, "claims the shape"),
        (b"", "ends after 0 of 4 bytes"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_idx(path, 3, LARGEST)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(content)
    with pytest.raises(UserError):
        read_idx(path, 3, 100)


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx(IMAGES), mtime=0)[:-9])
    with pytest.raises(UserError, match="damaged"):
        read_idx(path, 3, LARGEST)


def test_other_counts_of_pictures_and_labels_and_no_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no train-images-idx3-ubyte\.gz nor train-images"):
        read_mnist(tmp_path, LARGEST)
    mnist_files(tmp_path)
    short = idx(np.zeros(3, dtype=np.uint8))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(short, mtime=0))
    with pytest.raises(UserError, match="200 pictures, but 3 labels"):
        read_mnist(tmp_path, LARGEST)
