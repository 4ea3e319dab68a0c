"""Messages: msgpack with numpy arrays in the encoding of openpi's ``msgpack_numpy``, decoded strictly.

A message is a map with string keys. An array in it is a map of its own, with bytes keys:

    {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}

and a numpy scalar ``{b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}``. If both sides share memory
(`rpd.teachers.transport.shared_memory`), ``b"offset"`` replaces ``b"data"``. Everything else is refused: pickle, object arrays,
msgpack extensions. Decoding never takes much more memory than the message itself.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from rpd.envs.errors import missing_package
from rpd.teachers.transport.shared_memory import Arena

try:
    import msgpack
except ImportError:
    raise missing_package("a policy server, its client or a record", "msgpack", "serve") from None

Message = dict[str, Any]

DTYPES = {
    np.dtype(name).str: np.dtype(name)
    for name in ("?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
}
MAX_DEPTH = 8  # nesting of maps and lists
MAX_LENGTH = 8_192  # items of one map or list: msgpack allocates before it reads the items
MAX_ITEMS = 65_536  # items of all maps and lists of a message
MAX_DIMS = 8
SHARE_FROM = 16_384  # bytes: smaller arrays are not worth the overhead of shared memory

_ARRAY, _SCALAR, _DATA, _OFFSET, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"offset", b"dtype", b"shape"
_PLAIN = (str, bool, int, float, type(None), np.ndarray, np.generic)


class MalformedMessage(ValueError):
    """Invalid message; the text gives the reason."""


def encode(message: Message, arena: Arena | None = None) -> bytes:
    """Encode a message.

    Args:
        message: nested dicts and lists of numbers, strings, None and numpy arrays.
        arena: shared memory for large arrays, used while there is room.

    Raises:
        TypeError: the message contains another type.
    """
    return msgpack.packb(message, default=functools.partial(_pack, arena=arena))


def decode(data: bytes, arena: Arena | None = None) -> Message:
    """Decode a message.

    Args:
        data: bytes from `encode` or an untrusted source.
        arena: shared memory with the arrays that are not in `data`.

    Returns:
        The message; arrays from `data` are read-only.

    Raises:
        MalformedMessage: invalid or dangerous content.
    """
    reader = _Reader(arena)
    try:
        message = msgpack.unpackb(
            data, object_hook=reader.map, list_hook=reader.list, ext_hook=_no_extension,
            max_array_len=MAX_LENGTH, max_map_len=MAX_LENGTH,
        )  # fmt: skip
    except MalformedMessage:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError) as error:
        raise MalformedMessage(f"not msgpack: {error or type(error).__name__}") from None
    if type(message) is not dict:
        raise MalformedMessage(f"a message is a map, not {type(message).__name__}")
    _check(message, depth=1)
    return message


def as_int(value: Any) -> Any:
    """Convert numpy integers of any width to int (openpi's packer sends numpy scalars); other values are unchanged."""
    return int(value) if isinstance(value, np.integer) else value


def array_bytes(value: Any) -> int:
    """Bytes of the arrays in a message that are large enough for an arena."""
    if isinstance(value, dict):
        return sum(map(array_bytes, value.values()))
    return value.nbytes if isinstance(value, np.ndarray) and value.nbytes >= SHARE_FROM else 0


def _pack(value: Any, arena: Arena | None) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        raise TypeError(f"cannot send {value.dtype if isinstance(value, np.ndarray) else type(value).__name__}")
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    offset = arena.put(data) if arena is not None and data.nbytes >= SHARE_FROM else None
    place = {_DATA: data.data} if offset is None else {_OFFSET: offset}
    return {_ARRAY: True, **place, _DTYPE: value.dtype.str, _SHAPE: value.shape}


class _Reader:
    """Hooks of one `decode`: msgpack calls them for every map and list, innermost first."""

    def __init__(self, arena: Arena | None) -> None:
        self.arena = arena
        self.items = 0

    def list(self, items: list[Any]) -> list[Any]:
        self._count(len(items))
        return items

    def map(self, fields: dict[Any, Any]) -> Any:
        self._count(len(fields))
        if _ARRAY in fields:
            return self._array(fields)
        return _scalar(fields) if _SCALAR in fields else fields

    def _count(self, items: int) -> None:
        self.items += items + 1
        if self.items > MAX_ITEMS:
            raise MalformedMessage(f"more than {MAX_ITEMS:,} items")

    def _array(self, fields: dict[Any, Any]) -> np.ndarray:
        place = _OFFSET if _OFFSET in fields else _DATA
        if fields.keys() != {_ARRAY, place, _DTYPE, _SHAPE} or fields[_ARRAY] is not True:
            raise MalformedMessage("an array has the fields __ndarray__, data, dtype and shape")
        dtype, shape = _dtype(fields[_DTYPE]), fields[_SHAPE]
        if type(shape) is not list or len(shape) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in shape):
            raise MalformedMessage(f"an array's shape is a list of up to {MAX_DIMS} sizes")
        size = math.prod(shape) * dtype.itemsize
        data = self._shared(fields[_OFFSET], size) if place == _OFFSET else fields[_DATA]
        if place == _DATA and (type(data) is not bytes or len(data) != size):
            raise MalformedMessage(f"an array of shape {shape} and dtype {dtype.str} has {size} bytes")
        array: np.ndarray = np.ndarray(shape, dtype, data)
        if dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
            raise MalformedMessage("an array of bools holds other numbers than 0 and 1")
        return array

    def _shared(self, offset: Any, size: int) -> np.ndarray:
        if self.arena is None:
            raise MalformedMessage("an array refers to shared memory, but the connection has none")
        data = self.arena.get(offset, size) if type(offset) is int else None
        if data is None:
            raise MalformedMessage("an array lies outside of the shared memory, or over another one")
        return data


def _scalar(fields: dict[Any, Any]) -> np.generic:
    if fields.keys() != {_SCALAR, _DATA, _DTYPE} or type(fields[_DATA]) not in (bool, int, float):
        raise MalformedMessage("a scalar has the fields __npgeneric__, data (a number) and dtype")
    return _dtype(fields[_DTYPE]).type(fields[_DATA])


def _dtype(name: Any) -> np.dtype[Any]:
    if type(name) is not str or name not in DTYPES:
        raise MalformedMessage(f"dtype {str(name)[:20]!r}; arrays are {', '.join(DTYPES)}")
    return DTYPES[name]


def _no_extension(code: int, data: bytes) -> Any:
    raise MalformedMessage(f"msgpack extension {code}")


def _check(value: Any, depth: int) -> None:
    """Refuse what msgpack supports and messages do not: deep nesting, keys that are not strings, loose bytes, times."""
    if depth > MAX_DEPTH:
        raise MalformedMessage(f"more than {MAX_DEPTH} levels")
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise MalformedMessage(f"a key is a string, not {type(key).__name__}")
            _check(item, depth + 1)
    elif type(value) is list:
        for item in value:
            _check(item, depth + 1)
    elif not isinstance(value, _PLAIN):
        raise MalformedMessage(f"{type(value).__name__} in a message")
