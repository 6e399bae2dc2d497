"""Runs of a long table, kept as they come, so that an interrupted one goes on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .common import QUICK, RESULTS

FOLDER = Path(__file__).parent / "kept"  # not in git


class Kept:
    """name -> figures, a line of a file each; a quick run keeps none.

    A file belongs to the settings of its first line. With other settings it is refused rather than mixed.
    Where there is none yet, it begins with the `runs` of results/TABLE.json, if their settings are the same.
    """

    def __init__(self, table: str, settings: Mapping[str, Any]):
        self.path, self.done = FOLDER / f"{table}.jsonl", {}
        if QUICK:
            return
        first = json.dumps({"settings": settings}, sort_keys=True)
        if not self.path.exists():
            self.path.parent.mkdir(exist_ok=True)
            lines = [first, *(json.dumps(run) for run in _stored(table, settings).items())]
            self.path.write_text("\n".join(lines) + "\n")
        lines = self.path.read_text().splitlines()
        if lines[0] != first:
            raise SystemExit(f"{self.path} holds runs of other settings: move it away")
        self.done = dict(json.loads(line) for line in lines[1:])

    def add(self, name: str, figures: Any) -> Any:
        self.done[name] = figures
        if not QUICK:
            with self.path.open("a") as file:
                file.write(json.dumps([name, figures]) + "\n")
        return figures


def _stored(table: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that results/TABLE.json holds of these settings; it may name more settings."""
    path = RESULTS / f"{table}.json"
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))
    same = all(record["settings"].get(name) == value for name, value in wanted.items())
    return record.get("runs", {}) if same else {}
