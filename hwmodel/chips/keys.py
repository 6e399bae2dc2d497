"""What to write instead of a key that no chip has: the right name, and the value in its unit."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

_MEANT = {  # first word of a key -> the keys it may stand for
    "capacity": ("capacity_bytes",),
    "size": ("capacity_bytes",),
    "bandwidth": ("read_bytes_per_s", "write_bytes_per_s"),
    "bw": ("read_bytes_per_s", "write_bytes_per_s"),
    "read": ("read_bytes_per_s",),
    "write": ("write_bytes_per_s",),
    "latency": ("latency_s",),
    "delay": ("latency_s",),
    "align": ("align_bytes",),
    "alignment": ("align_bytes",),
    "reserved": ("reserved_bytes",),
    "reserve": ("reserved_bytes",),
    "energy": ("energy_j_per_byte", "energy_j_per_mac"),
    "ops": ("ops_per_s",),
    "tops": ("ops_per_s",),
    "gops": ("ops_per_s",),
    "mops": ("ops_per_s",),
    "flops": ("ops_per_s",),
    "macs": ("ops_per_s",),
    "overhead": ("overhead_s",),
    "rho": ("overlap",),
    "rates": ("compute",),
    "rate": ("compute",),
    "memories": ("levels",),
    "level": ("levels",),
}
_PREFIX = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS = {
    **{f"{p}b": factor for p, factor in _PREFIX.items()},
    **{f"{p}ib": 1024.0 ** (i + 1) for i, p in enumerate(_PREFIX)},
    **{f"{p}ops": factor for p, factor in _PREFIX.items()},
    "macs": 2.0,  # two operations each
    **{f"{p}{unit}": factor for p, factor in (("m", 1e-3), ("u", 1e-6), ("n", 1e-9)) for unit in ("s", "j")},
    "pj": 1e-12,
    "fj": 1e-15,
}
_BINARY = {f"{p}b": (1.024 ** (i + 1), f"{p}ib") for i, p in enumerate(_PREFIX)}


def unknown_key(key: str, value: Any, known: Sequence[str]) -> str:
    """One line on a key that is not among `known`: what it probably should be.

    A key such as capacity_mib gets its value in bytes, one such as capacity_mb both readings of a megabyte.
    """
    words = key.lower().split("_")
    meant = [name for name in _MEANT.get(words[0], ()) if name in known]
    if not meant:
        close = get_close_matches(key.lower(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        return f"unknown key {_quoted(key)}; {hint}"
    converted = _converted(words, value, meant[0])
    return f"unknown key {_quoted(key)}; give {' and '.join(f'{name}{converted}' for name in meant)}"


def _converted(words: list[str], value: Any, name: str) -> str:
    """The value in the unit of the key `name`, as ` = number`; nothing where the unit is not clear."""
    unit = next((word for word in words if word in _UNITS), None)
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    if unit is None or not number or not math.isfinite(value):
        return ""
    per_bit = 8.0 if words[-1] == "bit" and name.endswith("_per_byte") else 1.0
    scaled = value * _UNITS[unit] * per_bit
    text = f" = {_text(scaled)}"
    if unit in _BINARY and name.endswith("_bytes"):
        ratio, binary = _BINARY[unit]
        text += f" ({_text(scaled * ratio)} if {binary[0].upper()}iB is meant)"
    return text


def _text(number: float) -> str:
    return str(round(number)) if float(number).is_integer() and number < 2**53 else f"{number:.12g}"


def _quoted(key: str) -> str:
    return repr(key if len(key) <= 40 else f"{key[:37]}...")
