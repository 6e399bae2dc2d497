"""Reads the pickles of PyTorch files as data: nothing is imported, looked up or called.

A pickle is a program for a small stack machine. The machine below knows the opcodes that `torch.save`
writes (pickle protocol 2; opcode meanings from Python's `pickletools`), makes only dicts, lists, tuples,
strings, numbers and the records `Storage` and `Tensor`, and refuses every other opcode and every name
outside `NAMES`. A file can therefore be wrong, but it cannot do anything.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
NAMES = {DICT, TENSOR, PARAMETER} | {f"torch {name}" for name in STORAGES}


class Name(NamedTuple):
    """A name that the file mentions; only a label here."""

    text: str


class Storage(NamedTuple):
    """`size` elements of `dtype`, kept elsewhere in the file under `key`."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A strided window on a storage; offset and strides count elements. Not checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    stride: Any


# opcode -> format of its argument; the three of variable length are read in `_program`
FIXED = {
    b"\x80": "<B",  # PROTO
    b"K": "<B",  # BININT1
    b"M": "<H",  # BININT2
    b"J": "<i",  # BININT
    b"G": ">d",  # BINFLOAT
    b"q": "<B",  # BINPUT
    b"r": "<I",  # LONG_BINPUT
    b"h": "<B",  # BINGET
    b"j": "<I",  # LONG_BINGET
}
CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
BARE = b"(.}]tseauRQb\x85\x86\x87"  # opcodes without an argument
MARK = object()


class Stack(list[Any]):
    """The operands of the machine; taking what is not there is an error of the file."""

    def take(self, kind: type = object) -> Any:
        """The top operand, which must be of this kind."""
        if not self or self[-1] is MARK or not isinstance(self[-1], kind):
            raise damaged("an operand is missing or of the wrong kind")
        return self.pop()

    def take_to_mark(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        depth = len(self)
        while depth and self[depth - 1] is not MARK:
            depth -= 1
        if not depth:
            raise damaged("a mark is missing")
        items = self[depth:]
        del self[depth - 1 :]
        return items


def read_pickle(data: bytes, start: int) -> tuple[Any, int, dict[str, Storage]]:
    """The value of the pickle at `start`, where it ends, and every storage that it mentions, by key.

    Raises:
        ValueError: the pickle is cut off or damaged, or holds anything but tensors in dicts and lists.
    """
    stack = Stack()
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    for code, argument, end in _program(data, start):
        match code:
            case b"\x80":
                if argument != 2:
                    raise ValueError(f"it is pickled by protocol {argument}, not 2: save it with torch.save")
            case b"K" | b"M" | b"J" | b"G" | b"X" | b"\x8a":
                stack.append(argument)
            case b"N" | b"\x88" | b"\x89" | b")":
                stack.append(CONSTANTS[code])
            case b"(":
                stack.append(MARK)
            case b"}":
                stack.append({})
            case b"]":
                stack.append([])
            case b"t":
                stack.append(tuple(stack.take_to_mark()))
            case b"\x85" | b"\x86" | b"\x87":  # TUPLE1, TUPLE2, TUPLE3
                items = [stack.take() for _ in range(code[0] - 0x84)]
                stack.append(tuple(reversed(items)))
            case b"s" | b"u":  # SETITEM, SETITEMS
                pairs = stack.take_to_mark() if code == b"u" else [stack.take(), stack.take()][::-1]
                stack.append(_filled(stack.take(dict), pairs))
            case b"a" | b"e":  # APPEND, APPENDS
                items = stack.take_to_mark() if code == b"e" else [stack.take()]
                stack.append(stack.take(list))
                stack[-1].extend(items)
            case b"q" | b"r":
                memo[argument] = stack.take()
                stack.append(memo[argument])
            case b"h" | b"j":
                if argument not in memo:
                    raise damaged(f"nothing was stored as number {argument}")
                stack.append(memo[argument])
            case b"c":
                if argument not in NAMES:
                    name = shorten(argument.replace(" ", "."))
                    raise ValueError(f"it names {name}, no tensor (nothing was run): save model.state_dict()")
                stack.append(Name(argument))
            case b"Q":  # BINPERSID
                storage = _storage(stack.take(tuple))
                if storages.setdefault(storage.key, storage) != storage:
                    raise damaged(f"storage {shorten(storage.key)} is declared twice, differently")
                stack.append(storage)
            case b"R":  # REDUCE
                arguments, name = stack.take(tuple), stack.take(Name)
                stack.append(_rebuild(name.text, arguments))
            case b"b":  # BUILD sets attributes of an OrderedDict (torch's _metadata): not needed
                stack.take()
                stack.append(stack.take(dict))
            case b".":
                return stack.take(), end, storages
    raise damaged("the pickle is cut off")


def _program(data: bytes, position: int) -> Iterator[tuple[bytes, Any, int]]:
    """(opcode, argument, position after both), one by one; stops silently where the data end."""
    while position < len(data):
        code = data[position : position + 1]
        start, argument = position + 1, None
        if code in FIXED:
            position = start + struct.calcsize(FIXED[code])
            if position <= len(data):
                (argument,) = struct.unpack(FIXED[code], data[start:position])
        elif code in (b"X", b"\x8a"):  # BINUNICODE, LONG1: a length, then that many bytes
            middle = start + (4 if code == b"X" else 1)
            position = middle + int.from_bytes(data[start:middle], "little")
            raw = data[middle:position]
            argument = _text(raw) if code == b"X" else int.from_bytes(raw, "little", signed=True)
        elif code == b"c":  # GLOBAL: module and name, a line each
            middle = data.find(b"\n", start)
            position = data.find(b"\n", middle + 1) + 1
            if middle < 0 or not position:
                return
            argument = _text(data[start : position - 1]).replace("\n", " ")
        elif code in CONSTANTS or code in BARE:
            position = start
        else:
            raise ValueError(f"its pickle holds opcode {code!r}, which torch.save does not write for tensors")
        if position > len(data):
            return
        yield code, argument, position


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise damaged("a text in the pickle is not UTF-8") from None


def _filled(target: dict, pairs: list[Any]) -> dict:
    """`target` with key, value, key, value, ... put in."""
    keys = pairs[::2]
    if len(pairs) % 2 or not all(isinstance(key, str | int) for key in keys):
        raise damaged("a dict needs pairs whose keys are text or whole numbers")
    target.update(zip(keys, pairs[1::2], strict=True))
    return target


def _storage(words: tuple) -> Storage:
    """("storage", type, key, device, size[, view]) as written by torch's `persistent_id`."""
    match words:
        case ("storage", Name(text), str(key), str(), int(size), *view) if not any(view) and size >= 0:
            kind = text.removeprefix("torch ")
            if kind in STORAGES:
                return Storage(key, STORAGES[kind], size)
    raise damaged("a storage is not described as type, key, device and size")


def _rebuild(name: str, arguments: tuple) -> Any:
    match name, arguments:
        case (name, ()) if name == DICT:
            return {}
        case (name, (Storage() as storage, offset, shape, stride, *_)) if name == TENSOR:
            return Tensor(storage, offset, shape, stride)
        case (name, (Tensor() as tensor, *_)) if name == PARAMETER:
            return tensor
    raise damaged(f"{name.replace(' ', '.')} has the wrong arguments")


def damaged(what: str) -> ValueError:
    """The error for a file that no program wrote so."""
    return ValueError(f"it is damaged ({what}): download or save it again")


def shorten(text: str) -> str:
    """One printable line for text from the file."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
