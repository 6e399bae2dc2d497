"""TOML of a document of plain values, tables and lists of tables: what a chip needs, no more."""

import json
from typing import Any


def toml_text(document: dict[str, Any]) -> str:
    """Text that `tomllib.loads` reads back as an equal document.

    Values are text, booleans, finite numbers or lists of these; tables stand one level deep, alone or in
    lists, after the plain values.
    """
    plain = {key: value for key, value in document.items() if not _is_tables(value)}
    blocks = [_lines(plain)]
    for key, value in document.items():
        if isinstance(value, dict):
            blocks.append([f"[{_key(key)}]", *_lines(value)])
        elif _is_tables(value):
            blocks.extend([f"[[{_key(key)}]]", *_lines(entry)] for entry in value)
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, str):  # JSON's escapes are TOML's, but for the delete character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
