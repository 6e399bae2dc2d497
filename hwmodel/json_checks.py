"""What all readers of files share: text of bounded size, JSON without surprises, messages of one line."""

import json
from pathlib import Path
from typing import Any


def read_text(path: Path, most_bytes: int, what: str) -> str:
    """The text of a file.

    Args:
        path: the file.
        most_bytes: that are read at all.
        what: the file should be, for messages: "chip".

    Raises:
        ValueError: more bytes, or not UTF-8.
        OSError: as the system says.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(f"has {size} bytes; a {what} file has at most {most_bytes}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def parse_json(text: str, what: str) -> Any:
    """The document that `text` holds; `what` it should be stands in messages.

    Raises:
        ValueError: not JSON, NaN or an infinity, a key twice in one object, nesting beyond the interpreter's
            stack.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (line {error.lineno}: {error.msg}); is it cut off?") from None
    except RecursionError:
        raise ValueError(f"is nested too deeply for a {what}") from None


def check_version(found: Any, version: int) -> None:
    """ValueError unless a file is of the version that this release reads."""
    if found != version or isinstance(found, bool):
        raise ValueError(f"version must be {version}, got {short(found)}; was it written by a later release?")


def short(value: Any) -> str:
    """The value for a message of one line; of a container its kind and length."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)}"
    text = " ".join(repr(value).split())  # of an array in one line
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_constant(text: str) -> None:
    raise ValueError(f"holds {text}, which is not a number of JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"repeats the key {next(k for k in keys if keys.count(k) > 1)!r} in one object")
    return found
