"""The bytes of a group: exact there and back, and nothing but the schema's tensors gets in."""

import json
import re
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedstrata.protocol.payload import PayloadError, decode, encode, texts_of
from fedstrata.protocol.tensors import TensorSpec

torch.set_num_threads(1)

TENSORS = {
    "layer.weight": torch.tensor([[1.5, -2.0, 3.0], [0.1, -0.0, 1e-38]]),
    "layer.bias": torch.tensor([1.0, 2.0], dtype=torch.float64),
    "half": torch.tensor([1.0, 65504.0, -3.5], dtype=torch.float16),
    "brain": torch.tensor([1.0, 3e38, -2.0, 7.0, 9.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(-4.25),
    "none": torch.empty(0, 3),
    "counter": torch.tensor(2**40 + 1),
    'odd "name"\\ \N{SNOWMAN}': torch.tensor([7], dtype=torch.uint8),
}
SMALL = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor(3.0)}


def schema_of(tensors):
    return {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}


SCHEMA, SMALL_SCHEMA = schema_of(TENSORS), schema_of(SMALL)


def pack(header, body=b"", length=None):
    """Return a payload with this header, an object or raw bytes, and body."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def same_bits(left, right):
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.contiguous().numpy(force=True).tobytes() == right.numpy(force=True).tobytes()
        if left.dtype != torch.bfloat16
        else same_bits(left.view(torch.int16), right.view(torch.int16))
    )


# There and back ---------------------------------------------------------------------------------


def test_round_trip_is_exact_for_every_dtype_shape_and_name():
    found = decode(encode(TENSORS), SCHEMA, max_magnitude=None)
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert same_bits(tensor, found[name]), name


def test_round_trip_of_nothing():
    assert decode(encode({}), {}, max_magnitude=1.0) == {}


def test_views_and_shared_tensors_travel_as_themselves():
    base = torch.arange(12.0).reshape(3, 4)
    tied = {"base": base, "tied": base, "turned": base.t(), "row": base[1], "column": base[:, 1]}
    found = decode(encode(tied), schema_of(tied), max_magnitude=None)
    assert all(torch.equal(found[name], tied[name]) for name in tied)


@pytest.mark.filterwarnings("error")
def test_borrowed_tensors_are_the_bytes_themselves_where_these_are_aligned():
    data = bytearray(encode(SMALL))
    found = decode(data, SMALL_SCHEMA, max_magnitude=None, borrow=True)
    for name, tensor in SMALL.items():
        assert torch.equal(found[name], tensor)
    start = 8 + int.from_bytes(data[:8], "little")
    data[start:] = bytes(len(data) - start)
    assert not any(tensor.any() for tensor in found.values())
    data = encode(SMALL)
    moved = pack(data[8:start] + b" ", data[start:])
    again = decode(moved, SMALL_SCHEMA, max_magnitude=None, borrow=True)
    for name, tensor in SMALL.items():
        assert torch.equal(again[name], tensor)
        assert again[name].data_ptr() % tensor.element_size() == 0
    assert torch.equal(decode(encode(SMALL), SMALL_SCHEMA, max_magnitude=None)["a"], SMALL["a"])


def test_decoded_tensors_are_writable_and_leave_the_bytes_alone():
    data = encode(SMALL)
    kept = bytes(bytearray(data))
    found = decode(data, SMALL_SCHEMA, max_magnitude=None)
    found["a"].fill_(9.0)
    assert data == kept
    assert torch.equal(found["b"], SMALL["b"])
    assert torch.equal(decode(data, SMALL_SCHEMA, max_magnitude=None)["a"], SMALL["a"])


def test_parameters_with_gradients_can_be_encoded():
    parameter = torch.nn.Parameter(torch.ones(3))
    found = decode(encode({"w": parameter}), {"w": TensorSpec((3,), "float32")}, max_magnitude=None)
    assert not found["w"].requires_grad


# What is refused, and how it says so ------------------------------------------------------------

BODY = torch.tensor([1.0, -2.0, 3.0]).numpy().tobytes()
GOOD = {"a": entry(), "b": entry(shape=(), offsets=(8, 12))}
REFUSED = {
    "empty": (b"", "too few"),
    "short": (b"1234567", "too few"),
    "a header longer than all": (pack(GOOD, BODY, length=10**6), "header of 1000000 bytes"),
    "the longest header": (pack(GOOD, BODY, length=2**64 - 1), "header of 18446744073709551615"),
    "truncated": (pack(GOOD, BODY[:-1]), "11 bytes of tensors, the schema has 12"),
    "trailing": (pack(GOOD, BODY + b"\0"), "13 bytes of tensors"),
    "not JSON": (pack(b"{'a': 1}", BODY), "not the JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}', BODY), "not the JSON"),
    "UTF-16": (pack(json.dumps({"a": 1}).encode("utf-16"), BODY), "not the JSON"),
    "not an object": (pack([1, 2], BODY), "not a JSON object"),
    "nested": (pack(b"[" * 200, BODY), "not the JSON"),
    "a long number": (pack(b"9" * 200, BODY), "not a JSON object"),
    "repeated": (pack(b'{"a": 1, "a": 2}', BODY), "twice"),
    "missing": (pack({"a": entry(shape=(3,), offsets=(0, 12))}, BODY), "'a' has the shape"),
    "absent": (pack({"a": entry()}, BODY), "'b' is missing"),
    "extra": (pack(GOOD | {"c": {}}, BODY), "'c' is not in the schema"),
    "extra, two": (pack(GOOD | {"c": 1, "d": 1}, BODY), r"'c' is not in the schema \(and 1 more"),
    "metadata": (pack(GOOD | {"__metadata__": {}}, BODY), "'__metadata__' is not in the schema"),
    "an ugly name": (pack({"\ud800\n": 1}, BODY), r"'\\ud800\\n' is not"),
    "no entry": (pack(GOOD | {"a": None}, BODY), "'a' needs a dtype"),
    "half an entry": (pack(GOOD | {"a": {"dtype": "F32"}}, BODY), "'a' needs a dtype"),
    "dtype": (pack(GOOD | {"a": entry(dtype="I32")}, BODY), "'a' has the dtype 'I32', not 'F32'"),
    "no dtype": (pack(GOOD | {"a": entry(dtype=[["F32"]])}, BODY), "'a' has the dtype list"),
    "shape": (pack(GOOD | {"a": entry(shape=(1, 2))}, BODY), r"'a' has the shape \[1, 2\]"),
    "floats for a shape": (pack(GOOD | {"a": entry(shape=(2.0,))}, BODY), "of something else"),
    "truth for a shape": (pack(GOOD | {"b": entry(shape=True)}, BODY), "'b' has the shape"),
    "a negative shape": (pack(GOOD | {"a": entry(shape=(-2,))}, BODY), "'a' has the shape"),
    "offsets": (pack(GOOD | {"a": entry(offsets=(0, 4))}, BODY), "'a' has offsets"),
    "backward": (pack(GOOD | {"a": entry(offsets=(8, 0))}, BODY), "'a' has offsets"),
    "three offsets": (pack(GOOD | {"a": entry(offsets=(0, 8, 8))}, BODY), "'a' has offsets"),
    "float offsets": (pack(GOOD | {"a": entry(offsets=(0.0, 8.0))}, BODY), "'a' has offsets"),
    "overlap": (pack(GOOD | {"b": entry(shape=(), offsets=(4, 8))}, BODY), "'b' begins at byte 4"),
    "gap": (pack(GOOD | {"b": entry(shape=(), offsets=(12, 16))}, BODY), "'b' begins at byte 12"),
    "before": (pack(GOOD | {"a": entry(offsets=(-8, 0))}, BODY), "'a' begins at byte -8"),
    "far": (pack(GOOD | {"a": entry(offsets=(2**62, 2**62 + 8))}, BODY), "begins at byte"),
    "misaligned": (pack(GOOD | {"a": entry(offsets=(1, 9))}, BODY), "'a' is not aligned"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    data, text = REFUSED[case]
    with pytest.raises(PayloadError, match=text):
        decode(data, SMALL_SCHEMA, max_magnitude=None)


def test_deep_nesting_in_an_entry_is_refused_whatever_the_depth():
    schema = {f"{k}": TensorSpec((), "float32") for k in range(200)}  # room for a long header
    for depth in (10, 500, 900, 950, 980, 990, 1000, 5000):
        nested = b"[" * depth + b"]" * depth
        for text in (b"%s", b'{"dtype":%s,"shape":[],"data_offsets":[0,4]}'):
            header = b'{"0":' + text.replace(b"%s", nested) + b"}"
            with pytest.raises(PayloadError):
                decode(pack(header, bytes(800)), schema, max_magnitude=None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused_wherever_it_stands(dtype, value):
    for place in (0, 500, 999):
        tensors = {"fine": torch.ones(3), "bad": torch.ones(1000, dtype=dtype)}
        tensors["bad"][place] = value
        with pytest.raises(PayloadError, match="'bad' has values that are not finite"):
            decode(encode(tensors), schema_of(tensors), max_magnitude=None)


def test_magnitude_is_bounded_on_both_sides_and_the_bound_itself_passes():
    for sign in (1, -1):
        tensors = {"w": torch.tensor([0.0, sign * 2.0**24, 1.0])}
        decode(encode(tensors), schema_of(tensors), max_magnitude=2.0**24)
        tensors["w"][1] = sign * (2.0**24 + 2)
        with pytest.raises(PayloadError, match="'w' has a magnitude of"):
            decode(encode(tensors), schema_of(tensors), max_magnitude=2.0**24)
        decode(encode(tensors), schema_of(tensors), max_magnitude=None)


def test_a_dtype_that_cannot_travel_is_the_schemas_fault():
    with pytest.raises(TypeError, match="bool"):
        decode(b"", {"w": TensorSpec((2,), "bool")}, max_magnitude=None)


def test_nothing_is_allocated_by_what_a_header_claims():
    huge = {"a": entry(shape=(2**40,), offsets=(0, 2**42)), "b": GOOD["b"]}
    tracemalloc.start()
    for data in (pack(huge, BODY), pack(GOOD, BODY, length=2**60), pack(b"[" * 10**6)):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with pytest.raises(PayloadError):
            decode(data, SMALL_SCHEMA, max_magnitude=None)
        assert tracemalloc.get_traced_memory()[1] - before < 100_000
    tracemalloc.stop()


# Whatever arrives -------------------------------------------------------------------------------


def decode_or_refuse(data, schema=SCHEMA):
    """Either PayloadError, or exactly the schema's tensors, finite."""
    try:
        found = decode(data, schema, max_magnitude=None)
    except PayloadError:
        return None
    assert schema_of(found) == schema
    assert all(tensor.isfinite().all() for tensor in found.values())
    return found


@given(st.binary(max_size=600))
@example(b"\x02\0\0\0\0\0\0\0{}")
def test_fuzz_bytes(data):
    decode_or_refuse(data)
    decode_or_refuse(data, SMALL_SCHEMA)
    decode_or_refuse(data, {})


@given(st.data())
def test_fuzz_flipped_bits(data):
    damaged = bytearray(encode(TENSORS))
    for place in data.draw(st.lists(st.integers(0, 8 * len(damaged) - 1), min_size=1, max_size=4)):
        damaged[place // 8] ^= 1 << place % 8
    decode_or_refuse(bytes(damaged))


def test_every_truncation_and_every_addition_is_refused():
    whole = encode(TENSORS)
    for length in range(len(whole)):
        with pytest.raises(PayloadError):
            decode(whole[:length], SCHEMA, max_magnitude=None)
    with pytest.raises(PayloadError):
        decode(whole + b"\0", SCHEMA, max_magnitude=None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "F64", "BOOL", "X"]) | JSON,
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 2**63])) | JSON,
        "data_offsets": st.lists(st.sampled_from([-4, 0, 4, 8, 12, 2**64]), max_size=3) | JSON,
    }
)


@given(
    header=st.fixed_dictionaries(
        {"a": st.just(GOOD["a"]) | ENTRY | JSON, "b": st.just(GOOD["b"]) | ENTRY | JSON}
    )
)
@example(header=GOOD)
def test_fuzz_headers(header):
    found = decode_or_refuse(pack(header, BODY), SMALL_SCHEMA)
    if header == GOOD:
        assert found is not None


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=5,
    )
)
def test_fuzz_round_trips(drawn):
    tensors = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in drawn.items()}
    found = decode(encode(tensors), schema_of(tensors), max_magnitude=None)
    assert all(same_bits(tensors[name], found[name]) for name in tensors)


def test_errors_are_one_line_of_printable_text():
    for data, _ in REFUSED.values():
        with pytest.raises(PayloadError) as caught:
            decode(data, SMALL_SCHEMA, max_magnitude=None)
        assert re.fullmatch(r"[ -~]{1,200}", str(caught.value))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (encode({"w": torch.ones(2)}, {"source": "a\nb", "other": "c"}), {"source": "a?b"}),
        (encode({"w": torch.ones(2)}, {"source": ""}), {}),
        (encode({"w": torch.ones(2)}), {}),
        (b"", {}),
        ((1 << 40).to_bytes(8, "little") + b"{}", {}),
        ((14).to_bytes(8, "little") + b'{"__metadata__', {}),
        ((19).to_bytes(8, "little") + b'{"__metadata__": 1}', {}),
        ((32).to_bytes(8, "little") + b'{"__metadata__": {"source": [1]}}', {}),
    ],
)
def test_words_of_a_strangers_header_are_short_lines(data: bytes, found: dict[str, str]) -> None:
    assert texts_of(data, ["source"]) == found


@given(st.binary(max_size=200))
def test_words_of_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert texts_of(data, ["source"]) == {}
    headed = len(data).to_bytes(8, "little") + data
    assert set(texts_of(headed, ["source"])) <= {"source"}


def test_words_change_no_tensor() -> None:
    tensors = {"w": torch.ones(2), "v": torch.zeros(3)}
    with_words = safetensors.torch.load(encode(tensors, {"source": "x"}))
    assert {name: each.tolist() for name, each in with_words.items()} == {
        "w": [1, 1],
        "v": [0, 0, 0],
    }
