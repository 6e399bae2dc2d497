"""Options of `search` that co-searches hand on: which ones, and files and time shared out among the parts."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from egrljax import Keep

from .config import default_config
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


def check_budget(
    budget: int, options: Mapping[str, Any], share: float = 1.0, maps: int = 1, rounds: int = 1
) -> None:
    """ValueError unless each round's share for bits pays for a population, of so many maps a member."""
    population = (options.get("config") or default_config(_start(options))).population
    least = rounds * math.ceil(population * maps / share)
    if budget < least:
        parts = [
            f"the bits begin with a population of {population}",
            f"of {maps} placements each" if maps > 1 else "",
            f"in each of {rounds} rounds" if rounds > 1 else "",
            f"on a share of {share:.3g}" if share < 1 else "",
        ]
        raise ValueError(
            f"budget must be at least {least}, got {budget}: {' '.join(part for part in parts if part)}"
        )


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that decide a result, as JSON values to keep with it."""
    config, start = options.get("config"), _start(options)
    kept = {name: options[name] for name in ("warm_share", "warm_rounds", "time_limit_s") if name in options}
    return {
        **kept,
        "config": None if config is None else asdict(config),
        "limits": dict(options.get("limits") or {}),
        "policies": sorted(options.get("policies") or {}),
        "warm_start": start if start is None or isinstance(start, str) else "a table",
        "seeds": 0 if options.get("seeds") is None else len(options["seeds"]),
    }


def _start(options: Mapping[str, Any]) -> Any:
    return options.get("warm_start", "fisher")  # the default of `search`


class Clock:
    """One time limit for all parts."""

    def __init__(self, options: Mapping[str, Any]):
        limit = options.get("time_limit_s")
        if limit is not None and not (isinstance(limit, int | float) and limit >= 0):
            raise ValueError(f"time_limit_s must be a number of seconds, at least 0, got {limit!r}")
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
