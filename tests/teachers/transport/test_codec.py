"""The encoding of openpi, byte by byte; and nothing else is let in."""

import random
import struct
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest

from rpd.teachers.transport.codec import DTYPES, MAX_DEPTH, MAX_DIMS, MAX_ITEMS, MAX_LENGTH, MalformedMessage, decode, encode

ROOT = Path(__file__).parents[3]


def array(**changes):
    """An array as openpi writes it."""
    fields = {b"__ndarray__": True, b"data": b"\x00\x00\x80?\x00\x00\x00@", b"dtype": "<f4", b"shape": [1, 2]}
    fields |= {key.encode() if isinstance(key, str) else key: value for key, value in changes.items()}
    return {key: value for key, value in fields.items() if value is not None}


def packed(value):
    return msgpack.packb({"x": value})


def test_bytes_of_an_array():
    by_hand = (
        b"\x81\xa1x\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08\x00\x00\x80?\x00\x00\x00@"
        b"\xc4\x05dtype\xa3<f4\xc4\x05shape\x92\x01\x02"
    )
    assert encode({"x": np.float32([[1, 2]])}) == by_hand == packed(array())
    message = decode(by_hand)
    assert message["x"].dtype == np.float32 and message["x"].tolist() == [[1, 2]] and not message["x"].flags.writeable


def test_bytes_of_a_scalar():
    generic = packed({b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"})
    assert decode(generic)["x"] == np.float32(1.5) and isinstance(decode(generic)["x"], np.float32)
    assert decode(encode({"x": np.float32(1.5), "y": np.int64(3), "z": np.bool_(True)})) == {"x": 1.5, "y": 3, "z": True}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)])
def test_round_trip(dtype, shape):
    value = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    got = decode(encode({"a": {"b": [value, None, "ü", 1, -2.5, True]}}))["a"]["b"]
    assert got[0].dtype == value.dtype and got[0].shape == shape and (got[0] == value).all()
    assert got[1:] == [None, "ü", 1, -2.5, True]


def test_arrays_of_any_layout():
    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (value.T, value[:, ::-1], value[..., 1]):
        assert (decode(encode({"x": view}))["x"] == view).all()


def nested(levels):
    """A map in which lists lie within each other; the number in the innermost is the last level."""
    return b"\x81\xa1x" + b"\x91" * (levels - 2) + b"\x01"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (packed(1)[:-1], "not msgpack"),
        (packed(1) + b"\x00", "not msgpack"),
        (b"\x81\xa1x\xa1\xff", "not msgpack"),  # no UTF-8
        (b"\x80\x80", "not msgpack"),
        (msgpack.packb([1]), "a message is a map, not list"),
        (msgpack.packb(1), "a message is a map, not int"),
        (packed(array())[3:], "a message is a map, not ndarray"),
        (msgpack.packb({1: 2}), "not msgpack"),
        (msgpack.packb({b"x": 2}), "a key is a string, not bytes"),
        (packed(b"loose"), "bytes in a message"),
        (packed([{"y": b"loose"}]), "bytes in a message"),
        (packed(msgpack.ExtType(5, b"x")), "extension 5"),
        (packed(msgpack.Timestamp(0)), "Timestamp in a message"),
        (nested(MAX_DEPTH + 1), "more than 8 levels"),
        (nested(600), "more than 8 levels"),
        (nested(100_000), "not msgpack"),
        (packed([[0] * 1000] * (MAX_ITEMS // 1000 + 1)), "more than 65,536 items"),
        (packed([[]] * MAX_LENGTH + [[]]), "not msgpack"),
        (packed([[[]] * 8000] * 9), "more than 65,536 items"),
        (b"\x81\xa1x\xdd\xff\xff\xff\xff", "not msgpack"),  # a list that says it has four billion items
        (b"\x81\xa1x\xc6\xff\xff\xff\xff", "not msgpack"),  # and as many bytes
        (packed(array(dtype="|O")), "dtype '|O'"),
        (packed(array(dtype=">f4")), "dtype '>f4'"),
        (packed(array(dtype="<c8")), "dtype"),
        (packed(array(dtype="<M8[s]")), "dtype"),
        (packed(array(dtype="|V4")), "dtype"),
        (packed(array(dtype="<U2")), "dtype"),
        (packed(array(dtype=["<f4"])), "dtype"),
        (packed(array(dtype=None)), "an array has the fields"),
        (packed(array(extra=1)), "an array has the fields"),
        (packed(array(__ndarray__=1)), "an array has the fields"),
        (packed(array(shape=[1, 3])), "has 12 bytes"),
        (packed(array(shape=[])), "has 4 bytes"),
        (packed(array(shape=[2**40, 2**40])), "bytes"),
        (packed(array(shape=[0, 2**62], data=b"")), "not msgpack"),
        (packed(array(shape=[-1, -2])), "shape is a list"),
        (packed(array(shape=[True, 2])), "shape is a list"),
        (packed(array(shape=[1.0, 2])), "shape is a list"),
        (packed(array(shape=2)), "shape is a list"),
        (packed(array(shape=[1] * MAX_DIMS + [2])), "shape is a list"),
        (packed(array(data="12345678")), "has 8 bytes"),
        (packed(array(data=[0] * 8)), "has 8 bytes"),
        (packed(array(data=array(dtype="|u1", shape=[8]))), "has 8 bytes"),
        (packed(array(dtype="|b1", shape=[2], data=b"\x01\x02")), "other numbers than 0 and 1"),
        (packed(array(data=None, offset=0)), "the connection has none"),
        (packed({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "not msgpack"),
        (packed({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}), "a scalar has the fields"),
        (packed({b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}), "dtype"),
        (packed({b"__npgeneric__": True, b"data": 1}), "a scalar has the fields"),
    ],
)
def test_refuses(data, message):
    with pytest.raises(MalformedMessage, match=message):
        decode(data)


def test_as_many_levels_as_are_allowed():
    assert decode(nested(MAX_DEPTH)) == {"x": [[[[[[1]]]]]]}


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), np.float32([1]).astype(">f4"), {1, 2}])
def test_does_not_send(value):
    with pytest.raises(TypeError, match="cannot send"):
        encode({"x": value})


def test_fuzzed_messages_are_messages_or_malformed():
    rng = random.Random(0)
    good = encode({"prompt": "ab", "state": np.float32([1, 2]), "n": [1, 2.5, None], "u": np.uint8([[1]])})
    outcomes = []
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at:]
                data += b"\x00"
            elif kind == 2:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            else:
                data[at:at] = struct.pack(">BI", rng.choice([0xC6, 0xDB, 0xDD, 0xDF, 0xC9]), rng.randrange(2**32))
        try:
            outcomes.append(isinstance(decode(bytes(data)), dict))
        except MalformedMessage:
            outcomes.append(False)
    assert outcomes.count(False) > 1500


def test_client_imports_without_torch_and_names_its_extra():
    code = """
import sys
import rpd.teachers.transport.client
assert not {"torch", "pydantic"} & set(sys.modules)
for name in ("rpd.teachers.transport.client", "rpd.teachers.transport.codec"):
    del sys.modules[name]
sys.modules["msgpack"] = None
from rpd.envs.errors import ConfigError
try:
    import rpd.teachers.transport.client
except ConfigError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install -e '.[serve]'" in result.stdout and result.stdout.count("\n") == 1
