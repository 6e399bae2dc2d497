"""Runs of a long table, kept as they come, so that an interrupted one goes on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .common import QUICK

FOLDER = Path(__file__).parent / "kept"  # not in git


class Kept:
    """name -> figures, a line of a file each; a quick run keeps none.

    A file belongs to the settings of its first line. With other settings it is refused rather than mixed.
    """

    def __init__(self, table: str, settings: Mapping[str, Any]):
        self.path, self.done = FOLDER / f"{table}.jsonl", {}
        if QUICK:
            return
        first = json.dumps({"settings": settings}, sort_keys=True)
        if not self.path.exists():
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text(first + "\n")
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
