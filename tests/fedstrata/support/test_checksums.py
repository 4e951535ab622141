"""Any changed bit of a sealed file is noticed, in its header and in its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support import checksums
from fedstrata.support.checksums import Damaged
from fedstrata.support.tensor_files import save

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "x"
    save(path, {"a": torch.arange(50.0), "b": torch.ones(3, dtype=torch.int8)}, {"of": "é"})
    return path


@given(st.data())
def test_a_flipped_bit_or_a_cut_is_noticed(written: Path, data: st.DataObject) -> None:
    content = bytearray(written.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
    damaged = written.with_name("damaged")
    damaged.write_bytes(content)
    with pytest.raises(Damaged):
        checksums.check(damaged)
    checksums.check(written)


def test_every_byte_of_a_small_file_counts(written: Path) -> None:
    content = written.read_bytes()
    damaged = written.with_name("damaged")
    for at in range(len(content)):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Damaged):
            checksums.check(damaged)


def test_the_header_is_checked_without_the_tensors(written: Path) -> None:
    content = written.read_bytes()
    damaged = written.with_name("damaged")
    damaged.write_bytes(content[:-1] + b"?")
    checksums.check_header(damaged)
    damaged.write_bytes(content.replace(b'"of"', b'"if"'))
    with pytest.raises(Damaged, match="the header is not as it was written"):
        checksums.check_header(damaged)


@given(st.binary(max_size=300))
def test_anything_else_is_no_sealed_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("f") / "x"
    for each in (content, len(content).to_bytes(8, "little") + content):
        path.write_bytes(each)
        with pytest.raises(Damaged):
            checksums.check(path)


@given(st.dictionaries(st.text().filter(lambda key: key != checksums.KEY), PLAIN, max_size=4))
def test_plain_data_come_back_from_json(content: dict[str, Any]) -> None:
    text = json.dumps(checksums.with_checksum(content))
    assert checksums.checked(json.loads(text)) == content


@pytest.mark.parametrize("content", [None, [], 5, {}, {"a": 1}, {"a": 1, "checksum": 5}])
def test_plain_data_without_their_checksum_are_refused(content: object) -> None:
    with pytest.raises(Damaged):
        checksums.checked(content)


@pytest.mark.parametrize("odd", ["\ud800", 2**70, float("nan")])
def test_what_no_checksum_can_be_made_of_is_refused(odd: object) -> None:
    with pytest.raises(Damaged):
        checksums.checked({"a": odd, checksums.KEY: "0" * 64})


def test_changed_plain_data_are_refused() -> None:
    content = checksums.with_checksum({"round": 3, "history": [1.5]})
    with pytest.raises(Damaged, match="not what was written"):
        checksums.checked({**content, "round": 4})
