"""An npz is read without running code or wasting memory, and any damage is a UserError."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_app.data.arrays import read_npz, whole_numbers
from fedstrata.support.errors import UserError

MIB = 1 << 20


def packed(**arrays: np.ndarray) -> bytes:
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    return memory.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    """Return an npy file with this header, true or not."""
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


def write(path: Path, member: bytes, name: str = "x.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return path


def test_arrays_come_back_as_they_were(tmp_path) -> None:
    x, y = np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "é"])
    (tmp_path / "a.npz").write_bytes(packed(x=x, y=y, z=np.zeros(3)))
    read = read_npz(tmp_path / "a.npz", ["x"], ["y", "absent"], largest=MIB)
    assert set(read) == {"x", "y"}
    assert (read["x"] == x).all()
    assert (read["y"] == y).all()


def test_a_missing_array_is_reported_with_what_exists(tmp_path) -> None:
    (tmp_path / "a.npz").write_bytes(packed(train_image=np.zeros(1)))
    with pytest.raises(UserError, match=r"a\.npz: no array 'train_images'.*'train_image'"):
        read_npz(tmp_path / "a.npz", ["train_images"], largest=MIB)


def test_objects_are_rejected(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    content = packed(x=np.array([Bomb()], dtype=object))
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="could run code"):
        read_npz(tmp_path / "a.npz", ["x"], largest=MIB)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,), }", "cannot be read"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }", "claims"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-5,), }", "claims"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", "claims"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", "claims"),
        ("{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }", "plain numbers"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': 3, }", "cannot be read"),
        ("{'descr': 'oops', 'fortran_order': False, 'shape': (1,), }", "cannot be read"),
        ("__import__('os').getpid()", "cannot be read"),
    ],
)
def test_false_headers_are_rejected(tmp_path, header, message) -> None:
    path = write(tmp_path / "a.npz", npy(header, b"\0" * 16))
    with pytest.raises(UserError, match=message):
        read_npz(path, ["x"], largest=1 << 50)


def test_too_large_arrays_are_rejected_before_they_are_read(tmp_path) -> None:
    (tmp_path / "a.npz").write_bytes(
        packed(x=np.zeros(4 * MIB, np.uint8), y=np.zeros(MIB, np.uint8))
    )
    read_npz(tmp_path / "a.npz", ["x", "y"], largest=5 * MIB)
    with pytest.raises(UserError, match="'x' would take 4 MiB, which is more than the 3 MiB"):
        read_npz(tmp_path / "a.npz", ["x"], largest=3 * MIB)
    with pytest.raises(UserError, match="'y' would take 1 MiB"):  # the limit is for all together
        read_npz(tmp_path / "a.npz", ["x", "y"], largest=4 * MIB)


def test_a_zip_that_claims_more_than_it_can_hold_is_rejected(tmp_path) -> None:
    content = bytearray(packed(x=np.zeros(8, np.uint8)))
    at = content.rindex(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    content[at : at + 4] = (1 << 30).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(bytes(content))
    with pytest.raises(UserError, match="more than its bytes can unpack to"):
        read_npz(tmp_path / "a.npz", ["x"], largest=1 << 40)


WHOLE = packed(x=np.arange(60, dtype=np.int16).reshape(20, 3), y=np.arange(20))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, len(WHOLE)),
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4),
)
def test_damage_gives_a_user_error_or_the_same_arrays(tmp_path, length, changes) -> None:
    content = bytearray(WHOLE)
    for position, value in changes:
        content[position] = value
    (tmp_path / "a.npz").write_bytes(bytes(content[:length]))
    try:
        read = read_npz(tmp_path / "a.npz", ["x", "y"], largest=MIB)
    except UserError:
        return
    assert (read["x"] == np.arange(60).reshape(20, 3)).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_member_gives_an_array_or_a_user_error(tmp_path, member) -> None:
    path = write(tmp_path / "a.npz", b"\x93NUMPY\x01\x00" + member)
    with contextlib.suppress(UserError):
        read_npz(path, ["x"], largest=MIB)


def test_whole_numbers_names_the_row() -> None:
    assert whole_numbers(np.array([[1], [2]], np.uint8), 0, 2, "f").tolist() == [1, 2]
    assert whole_numbers(np.array([1.0, 2.0]), 0, 2, "f").tolist() == [1, 2]
    for wrong in ([1, 3], [1, -1], [1, 1.5], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(UserError, match=r"^f: row 2 is"):
            whole_numbers(np.array(wrong), 0, 2, "f")
    with pytest.raises(UserError, match="one whole number per row"):
        whole_numbers(np.array(["a"]), 0, 2, "f")
