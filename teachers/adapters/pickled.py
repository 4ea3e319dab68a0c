"""Read data from pickles of other software without executing them.

A pickle is a program for a stack machine. The standard library (`pickletools`) only parses its instructions; this module
executes those that build plain data and no others. Imports and calls result in a description of them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_BYTES = 2**24
DTYPES = ("f4", "f8", "i4", "i8", "b1")
RECONSTRUCT, SCALAR, FROM_BUFFER = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
"""Names of an array, a number, and a protocol-5 array in numpy's pickles."""


class Global(str):
    """Reference of a pickle to ``module.name``, as a name only."""


@dataclass
class Made:
    """Description of an object that a pickle would build by a call; it is never built."""

    name: Global
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)


def read(content: bytes) -> Any:
    """Return the content of a pickle of protocol 3 to 5.

    The content consists of None, numbers, text, bytes, lists (also for sets), tuples, dicts, `Global` and `Made`.

    Raises:
        ValueError: damaged, too large, or an instruction that plain data do not need; names the first.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has {len(content):,} bytes, more than the limit of {MAX_BYTES:,}")
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            machine.do(opcode.name, argument)
        (value,) = machine.stack
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from None
    return value


def array(value: Any) -> np.ndarray:
    """Convert an array or number described by `read`, or a plain number, to an array.

    Raises:
        ValueError: not an array of numbers.
    """
    if type(value) in (bool, int, float):
        return np.array(value)
    if not isinstance(value, Made) or not value.name.startswith(("numpy.core.", "numpy._core.")):
        raise ValueError("no array of numbers")
    kind = value.name.split("core.", 1)[1]
    try:
        if kind == RECONSTRUCT:
            _, shape, dtype, fortran, raw = value.state
        elif kind == FROM_BUFFER:
            raw, dtype, shape, order = value.args
            fortran = order == "F"
        elif kind == SCALAR:
            (dtype, raw), shape, fortran = value.args, (), False
        else:
            raise ValueError(f"no array of numbers but {value.name}")
        made = np.frombuffer(raw, _dtype(dtype))
        return made.reshape(shape, order="F" if fortran else "C")
    except (TypeError, IndexError):
        raise ValueError("a damaged array") from None


def _dtype(value: Any) -> np.dtype[Any]:
    """Convert a dtype described by `read`."""
    if not isinstance(value, Made) or value.name != "numpy.dtype" or value.args[0] not in DTYPES:
        raise ValueError(f"an array of something other than numbers: {getattr(value, 'args', value)}")
    order = value.state[1]
    return np.dtype(value.args[0]).newbyteorder("=" if order == "|" else order)


class _Machine:
    """Stack, marks and memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _FRESH:
            self.stack.append(_FRESH[name]())
        elif name in _REMEMBERED:
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in _STEPS:
            _STEPS[name](self)
        elif name == "GLOBAL":
            self.stack.append(Global(argument.replace(" ", ".")))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its instruction {name} is not needed for plain data")

    def mark(self) -> None:
        self._marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """Pop the items above the last mark."""
        first = self._marks.pop()
        taken, self.stack[first:] = self.stack[first:], []
        return taken

    def take(self, count: int) -> list[Any]:
        taken, self.stack[-count:] = self.stack[-count:], []
        if len(taken) != count:
            raise IndexError
        return taken

    def into(self, items: list[Any]) -> None:
        """Add items to the container on top of the stack, or record them in its description."""
        top = self.stack[-1]
        if isinstance(top, Made):
            top.items += items
        elif isinstance(top, dict):
            top.update(zip(items[::2], items[1::2], strict=True))
        else:
            top.extend(items)

    def name(self) -> None:
        module, name = self.take(2)
        self.stack.append(Global(f"{module}.{name}"))

    def call(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, Global):
            raise ValueError("it calls something without a name")
        self.stack.append(Made(function, arguments))

    def call_with_keywords(self) -> None:
        cls, arguments, keywords = self.take(3)
        self.stack += [cls, (*arguments, keywords)]
        self.call()

    def build(self) -> None:
        (state,) = self.take(1)
        self.stack[-1].state = state


_NUMBERS = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"))
_TEXTS = frozenset(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"))
_BYTES = frozenset(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"))
_PUSHED = _NUMBERS | _TEXTS | _BYTES
_REMEMBERED = frozenset(("MEMOIZE", "BINPUT", "LONG_BINPUT"))
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_STEPS: dict[str, Callable[[_Machine], Any]] = {
    "MARK": _Machine.mark,
    "POP": lambda m: m.take(1),
    "POP_MARK": _Machine.marked,
    "TUPLE": lambda m: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m: m.stack.append(tuple(m.take(3))),
    "FROZENSET": lambda m: m.stack.append(m.marked()),
    "SETITEM": lambda m: m.into(m.take(2)),
    "SETITEMS": lambda m: m.into(m.marked()),
    "APPEND": lambda m: m.into(m.take(1)),
    "APPENDS": lambda m: m.into(m.marked()),
    "ADDITEMS": lambda m: m.into(m.marked()),
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BUILD": _Machine.build,
}
