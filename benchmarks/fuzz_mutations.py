"""Damage of all kinds, drawn by NumPy: of bytes, of numbers in a text, of JSON's structure.

A mutation is a function of (rng, data, others) -> bytes, where `others` are valid files of the same kind, to
splice with. What needs the inside of a format (archives, pictures, safetensors) is in fuzz_formats.py.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Mutation = Callable[[np.random.Generator, bytes, Sequence[bytes]], bytes]

INTEGERS = (0, 1, -1, 2, 3, 127, 255, 256, 2**15, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**63, 10**30)
FLOATS = (0.5, -0.5, 1e-320, 1e38, 3.5e38, -1e38, 1e300, 1.7e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    " ",
    "\x00",
    "\n",
    "é",
    "\ud800",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "a" * 5000,
    "nan",
    "-1",
)
ODD_NUMBERS = (
    *("-1", "0", "1e999", "-1e999", "NaN", "nan", "inf", "Infinity", "9" * 30, "9" * 5000, "0x10", "1_000"),
    *("1.5", "-0.0", "1e-400", "2147483648", "9223372036854775808", "٣", "", "1e5", "--1", "+7"),
)


def bytes_flipped(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight bits, near each other or anywhere."""
    found = bytearray(data or b"\0")
    for at in rng.integers(0, len(found), int(rng.integers(1, 9))):
        found[at] ^= 1 << int(rng.integers(8))
    return bytes(found)


def bytes_set(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A field of one to eight bytes at one of the numbers that programs stumble over."""
    found, size = bytearray(data), int(rng.choice((1, 2, 4, 8)))
    at = int(rng.integers(0, max(1, len(found) - size)))
    value = int(_one(rng, INTEGERS)) % 256**size
    found[at : at + size] = value.to_bytes(size, str(rng.choice(("little", "big"))))  # type: ignore[arg-type]
    return bytes(found)


def cut(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Cut off anywhere, or a piece taken out of the middle."""
    start, end = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[end:]


def repeated(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A piece twice or many times."""
    start, end = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    times = int(rng.choice((1, 2, 50))) if end - start < 2000 else 1
    return data[:end] + data[start:end] * times + data[end:]


def spliced(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another."""
    other = bytes(_one(rng, others))
    return data[: int(rng.integers(0, len(data) + 1))] + other[int(rng.integers(0, len(other) + 1)) :]


def overwritten(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A stretch of zeros, ones or noise."""
    found = bytearray(data)
    start, end = sorted(int(n) for n in rng.integers(0, len(found) + 1, 2))
    end = min(end, start + 64)
    fill = (bytes(end - start), b"\xff" * (end - start), rng.bytes(end - start))
    found[start:end] = fill[int(rng.integers(3))]
    return bytes(found)


RAW: tuple[Mutation, ...] = (bytes_flipped, bytes_set, cut, repeated, spliced, overwritten)


def number_replaced(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """One number of a text by another, or by what is none."""
    text = data.decode("utf-8", "surrogateescape")
    places = list(re.finditer(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", text))
    if not places:
        return bytes_flipped(rng, data, others)
    where = places[int(rng.integers(len(places)))]
    text = text[: where.start()] + str(_one(rng, ODD_NUMBERS)) + text[where.end() :]
    return text.encode("utf-8", "surrogateescape")


def word_replaced(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """One word by another of the file, or by text that programs stumble over."""
    text = data.decode("utf-8", "surrogateescape")
    places = list(re.finditer(r"[A-Za-z_]\w*", text))
    if not places:
        return bytes_flipped(rng, data, others)
    where, other = (places[int(n)] for n in rng.integers(0, len(places), 2))
    new = other.group() if rng.random() < 0.6 else str(_one(rng, TEXTS))
    return (text[: where.start()] + new + text[where.end() :]).encode("utf-8", "replace")


def lines_moved(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line taken away, repeated, emptied or moved."""
    lines = data.split(b"\n")
    first, second = (int(n) for n in rng.integers(0, len(lines), 2))
    match int(rng.integers(4)):
        case 0:
            del lines[first]
        case 1:
            lines.insert(second, lines[first])
        case 2:
            lines[first] = b""
        case _:
            lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def marks_put(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Marks of a grammar where none belong, or nested beyond any stack."""
    marks = (
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"\x00",
        b"\\",
        b"<",
        b">",
        b"&",
        b"'",
        b"=",
        b"#",
        b"\r",
        b"\xff",
    )
    nest = (b"[" * 50_000, b'{"a":' * 20_000, b"<a>" * 20_000, b"(" * 5_000, b"[[" * 3_000)
    at = int(rng.integers(0, len(data) + 1))
    new = bytes(_one(rng, nest if rng.random() < 0.1 else marks))
    return data[:at] + new + data[at:]


TEXT: tuple[Mutation, ...] = (number_replaced, word_replaced, lines_moved, marks_put, *RAW)


def json_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Still JSON in most cases: values of other types, entries gone, new, twice or exchanged."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return bytes_flipped(rng, data, others)
    for _ in range(int(rng.choice((1, 1, 1, 2, 4)))):
        tree = tree_changed(rng, tree)
    text = json.dumps(tree)
    if rng.random() < 0.03:  # a key twice, which no dict can hold
        text = text.replace("{", '{"schema": 1, ', 1)
    return text.encode("utf-8", "replace")


JSON: tuple[Mutation, ...] = (*(json_changed,) * 8, *TEXT)


def tree_changed(rng: np.random.Generator, tree: Any) -> Any:
    """A nest of dicts and lists with one node changed."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return odd_value(rng)
    depths = sorted({len(path) for path in places})
    wanted = int(_one(rng, depths))  # every depth alike, so that tables do not hide what stands above them
    some = [path for path in places if len(path) == wanted]
    path = some[int(rng.integers(len(some)))]
    above = tree
    for step in path[:-1]:
        above = above[step]
    last, value = path[-1], None
    value = above[last]
    match int(rng.integers(8)):
        case 0:
            del above[last]
        case 1 if isinstance(above, dict):
            above[str(_one(rng, (*TEXTS, *above)))] = above.pop(last)
        case 1:
            above.insert(last, odd_value(rng))
        case 2:
            other = places[int(rng.integers(len(places)))]
            above[last] = copy.deepcopy(_at(tree, other))
        case 3 if isinstance(value, list | str):
            above[last] = value[: len(value) // 2] if rng.random() < 0.5 else value * int(rng.choice((2, 30)))
        case 4 if isinstance(value, int | float) and not isinstance(value, bool):
            above[last] = _one(
                rng, (value + 1, value - 1, -value, value * 2, value / 2, value + 0.5, str(value))
            )
        case _:
            above[last] = odd_value(rng)
    return tree


def odd_value(rng: np.random.Generator) -> Any:
    """Anything that JSON can hold."""
    nested: Any = 0
    for _ in range(int(rng.choice((1, 3, 200)))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    kinds = (
        (None, True, False),
        INTEGERS,
        FLOATS,
        TEXTS,
        ([], {}, [0], [[]], {"a": 0}, nested, [None] * 300),
    )
    return _one(rng, kinds[int(rng.integers(len(kinds)))])


def _places(tree: Any) -> Any:
    """Paths of all nodes but the root."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (key,)
        for below in _places(value):
            yield (key, *below)


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    try:
        for step in path:
            tree = tree[step]
    except (KeyError, IndexError, TypeError):
        return None  # it was taken away just now
    return tree


def _one(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]
