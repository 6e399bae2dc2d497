"""How much memory a map over a population may take, and what a compiled program takes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

VARIABLE = "FRUGALJAX_MEMORY_BYTES"
SHARE = 0.5  # of what is free: other processes, and what lives beside the map, need the rest
UNKNOWN_BYTES = 2**30  # where neither device nor system says what is free
SMALL_BYTES = 2**24  # what takes no more than that is never split


def memory_budget() -> int:
    """Bytes that a map may hold alive: `FRUGALJAX_MEMORY_BYTES`, else half of what is free.

    Free is what the default device says (`Device.memory_stats`); of a CPU, which says nothing, what the
    system or the control group has left.

    Raises:
        ValueError: the variable is no number of bytes from 1.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        try:
            budget = int(float(given))
        except (ValueError, OverflowError):
            budget = 0
        if budget < 1:
            raise ValueError(f"{VARIABLE} must be a number of bytes from 1, such as 4e9, got {given!r}")
        return budget
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return max(1, int(SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))))
    free = [f for f in (_available(), _of_group()) if f is not None]
    return max(1, int(SHARE * min(free))) if free else UNKNOWN_BYTES


def chunk_within(count: int, bytes_of: Callable[[int], float]) -> int:
    """How many of `count` members to have alive at once: all, or the highest power of two in the budget.

    Args:
        bytes_of: number of members alive at once -> bytes, growing.
    """
    if bytes_of(count) <= SMALL_BYTES or bytes_of(count) <= (budget := memory_budget()):
        return max(1, count)
    chunk = 1 << max(0, count.bit_length() - 1)
    while chunk > 1 and bytes_of(chunk) > budget:
        chunk //= 2
    return chunk


def program_bytes(function: Any, *arguments: Any, **options: Any) -> int:
    """Bytes that a jitted function needs beside its arguments: results and temporaries, by XLA's own count.

    It compiles the function for these arguments (arrays or `jax.ShapeDtypeStruct`) and runs nothing. A
    process was seen to hold 1 to 18 % more, for the method `matching` 38 % (benchmarks/peak_memory.py).
    """
    found = function.lower(*arguments, **options).compile().memory_analysis()
    return int(found.output_size_in_bytes + found.temp_size_in_bytes - found.alias_size_in_bytes)


def _available() -> int | None:
    """Bytes that the system can give without swapping; None where it does not say."""
    table = Path("/proc/meminfo")
    if table.exists():
        lines = [line for line in table.read_text().splitlines() if line.startswith("MemAvailable:")]
        if lines:
            return int(lines[0].split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # Windows, and systems that name them otherwise
        return None


def _of_group() -> int | None:
    """Bytes left in the control group, as of a container; None without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
