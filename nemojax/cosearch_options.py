"""Options of `search` that co-searches hand on: which ones, and files and time shared out among the parts."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from egrljax import Keep

from .sensitivity import Sensitivity

OPTIONS = (
    "block",
    "cache",
    "cache_is_free",
    "checkpoint",
    "config",
    "limits",
    "on_chunk",
    "policies",
    "seeds",
    "time_limit_s",
    "warm_rounds",
    "warm_share",
    "warm_start",
)
"""What co-searches hand on to `search`."""


def check_options(options: Mapping[str, Any]) -> None:
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise ValueError(f"options holds {unknown!r}: a co-search takes those of search in {list(OPTIONS)}")


class Clock:
    """One time limit for all parts."""

    def __init__(self, options: Mapping[str, Any]):
        limit = options.get("time_limit_s")
        self._end = None if limit is None else time.monotonic() + limit

    def over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def rest(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a part that begins now."""
        if self._end is None:
            return dict(options)
        return {**options, "time_limit_s": max(0.0, self._end - time.monotonic())}


def of_round(options: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The options with files of a round's own, and without what the first one has paid for."""
    own = dict(options)
    for name in ("checkpoint", "cache"):
        if own.get(name) is not None:
            path = Path(os.fspath(own[name]))
            file = path.with_name(f"{path.name}.round{number}")
            own[name] = replace(own[name], path=file) if isinstance(own[name], Keep) else file
    table = own.get("warm_start")
    if number and isinstance(table, Sensitivity):
        own["warm_start"] = replace(table, evaluations=0)
    return own
