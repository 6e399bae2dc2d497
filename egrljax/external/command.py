"""A program as a function: an item in as JSON, a number out on its last line. No shell."""

import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel import check_fields

from .process import Ended, Tail, run

ITEM = "{item}"
_SAID = 300  # characters of standard error in a message


@dataclass(frozen=True)
class Command:
    """See `command`. Called with an item it runs once, without a time limit, and raises where it fails."""

    argv: tuple[str, ...]
    parse: str | Callable[[str], Any] | None = None
    encode: Callable[[Any], Any] | None = None
    cwd: str | None = None
    output_bytes: int = 65_536

    def __post_init__(self):
        given: Any = self.argv
        if not (isinstance(given, tuple) and given and all(isinstance(part, str) for part in given)):
            raise ValueError(
                f"argv must be a program and its arguments, ['./measure', {ITEM!r}], got {self.argv!r}: "
                "no shell reads it"
            )
        check_fields(self)
        if self.output_bytes < 1:
            raise ValueError(f"output_bytes must be at least 1, got {self.output_bytes}")
        if os.name != "posix":
            raise ValueError("a command needs process groups, which only POSIX systems have")

    def __call__(self, item: Any) -> Any:
        return self.attempt(item, math.inf, threading.Event())

    def attempt(self, item: Any, timeout_s: float, stop: threading.Event) -> Any:
        """What the program makes of an item.

        Raises:
            ValueError: another exit status than 0, or no number where one should be.
            TimeoutError, Stopped, OSError: see `process.run`.
        """
        text = json.dumps(_plain(item if self.encode is None else self.encode(item)))
        with tempfile.NamedTemporaryFile("w+b", suffix=".json") as file:
            file.write(text.encode())
            file.flush()
            file.seek(0)
            argv = [argument.replace(ITEM, file.name) for argument in self.argv]
            given = None if any(ITEM in argument for argument in self.argv) else file
            ended = run(
                argv, given, cwd=self.cwd, timeout_s=timeout_s, stop=stop, most_bytes=self.output_bytes
            )
        if ended.code:
            how = f"exit status {ended.code}" if ended.code > 0 else f"killed by signal {-ended.code}"
            raise ValueError(f"{how}; standard error ends {ended.err.text[-_SAID:]!r}")
        return self._parsed(ended)

    def _parsed(self, ended: Ended) -> Any:
        if self.parse is not None and not isinstance(self.parse, str):
            return self.parse(ended.out.text)
        line = _last_line(ended.out)
        if self.parse is None:
            try:
                return float(line)
            except ValueError:
                raise ValueError(f"the last line of its output is no number: {line[:80]!r}") from None
        try:
            fields = json.loads(line)
        except ValueError:
            raise ValueError(f"the last line of its output is no JSON: {line[:80]!r}") from None
        if not isinstance(fields, dict) or self.parse not in fields:
            raise ValueError(f"the last line of its output has no field {self.parse!r}: {line[:80]!r}")
        return fields[self.parse]

    @property
    def identity(self) -> str | None:
        """What tells it from other commands; None where one of its functions has no name of its own."""
        parse = self.parse if self.parse is None or isinstance(self.parse, str) else named(self.parse)
        encode = None if self.encode is None else named(self.encode)
        if (parse is None) != (self.parse is None) or (encode is None) != (self.encode is None):
            return None
        return repr((self.argv, parse, encode, self.cwd))


def command(
    argv: Sequence[str],
    *,
    parse: str | Callable[[str], Any] | None = None,
    encode: Callable[[Any], Any] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    output_bytes: int = 65_536,
) -> Command:
    """A program that measures an item, for `external`.

    It runs in a session of its own. At the time limit, and also when it ends by itself, everything in its
    process group is killed. Another exit status than 0 is a failure, and so is a last line that holds no
    number.

    Args:
        argv: the program and its arguments, as they are, without a shell. `{item}` in an argument becomes the
            path of a file with the item as JSON; without one the item comes on standard input.
        parse: None: the last line of the output is the number; a text: it is a JSON object that has the
            number in this field; a function: of the output's last `output_bytes` bytes, as text.
        encode: item -> what JSON can hold. Default: the item itself, arrays as lists.
        cwd: the folder in which it runs.
        output_bytes: kept of what it prints; of the rest nothing is.

    Raises:
        ValueError: no such program line; a system without process groups.
    """
    own = argv if isinstance(argv, str) else tuple(argv)
    return Command(own, parse, encode, None if cwd is None else os.fspath(cwd), output_bytes)  # type: ignore[arg-type]


def named(function: Any) -> str | None:
    """module.name of a function; None of a lambda, an inner function or an object: others may share it."""
    name = getattr(function, "__qualname__", None)
    if name is None or "<" in name or not hasattr(function, "__module__"):
        return None
    return f"{function.__module__}.{name}"


def _last_line(out: Tail) -> str:
    lines = [line for line in out.text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it printed nothing")
    if len(lines) == 1 and out.cut:
        raise ValueError("the last line of its output is longer than output_bytes")
    return lines[-1].strip()


def _plain(item: Any) -> Any:
    """Arrays and NumPy's numbers as JSON has them."""
    if isinstance(item, dict):
        return {key: _plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(value) for value in item]
    return np.asarray(item).tolist() if hasattr(item, "__array__") else item
