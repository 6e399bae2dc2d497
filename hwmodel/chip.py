"""Chips: a hierarchy of memories and a compute rate per pair of bit-widths.

Units stand in the names. Levels are ordered as the chip's file orders them, the backing store first; that
order is what "next slower level" means, and nothing assumes that a later level is faster. Numbers are kept in
a range in which no time, energy or sum of them overflows float32.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from .json_checks import short
from .workload import LARGEST, Kind

Ports = Literal["shared", "dual"]
KINDS: tuple[str, ...] = get_args(Kind)
_SLOWEST, _FASTEST = 1e-6, 1e24  # of bytes and operations per second
_LARGEST = 1e6  # of seconds and joules
_MOST_LEVELS = 127  # placements are walked with levels as int8


@dataclass(frozen=True)
class Level:
    """One memory. The first level of a chip is its backing store; None there means unlimited."""

    name: str
    read_bytes_per_s: float
    write_bytes_per_s: float
    capacity_bytes: int | None = None
    latency_s: float = 0.0  # of each tensor's read or write
    align_bytes: int = 64  # every tensor takes a multiple of it
    reserved_bytes: int = 0  # for somebody else
    ports: Ports = "shared"  # shared: reads and writes add; dual: the longer of the two
    energy_j_per_byte: float | None = None  # None: not reported
    source: str = ""

    def __post_init__(self):
        where = f"level {self.name!r}"
        _named(self.name, "level")
        for name in ("read_bytes_per_s", "write_bytes_per_s"):
            _number(where, name, getattr(self, name), low=_SLOWEST, high=_FASTEST)
        if self.capacity_bytes is not None:
            _whole(where, self, "capacity_bytes", low=1)
        _number(where, "latency_s", self.latency_s, high=_LARGEST)
        _whole(where, self, "align_bytes", low=1)
        _whole(where, self, "reserved_bytes", low=0)
        if self.capacity_bytes is not None and self.reserved_bytes >= self.capacity_bytes:
            raise ValueError(
                f"{where}: reserved_bytes {self.reserved_bytes} leaves nothing of capacity_bytes "
                f"{self.capacity_bytes}"
            )
        if self.ports not in get_args(Ports):
            raise ValueError(f"{where}: ports must be 'shared' or 'dual', got {self.ports!r}")
        if self.energy_j_per_byte is not None:
            _number(where, "energy_j_per_byte", self.energy_j_per_byte, high=_LARGEST)
        _text(where, "source", self.source)


@dataclass(frozen=True)
class Rate:
    """Operations per second where weights and input activations have at most these bit-widths.

    One multiply-accumulate is two operations.
    """

    weight_bits: int
    activation_bits: int
    ops_per_s: float
    energy_j_per_mac: float | None = None  # None: not reported
    source: str = ""

    def __post_init__(self):
        where = f"rate {self.weight_bits}x{self.activation_bits}"
        for name in ("weight_bits", "activation_bits"):
            _whole(where, self, name, low=1)
        _number(where, "ops_per_s", self.ops_per_s, low=_SLOWEST, high=_FASTEST)
        if self.energy_j_per_mac is not None:
            _number(where, "energy_j_per_mac", self.energy_j_per_mac, high=_LARGEST)
        _text(where, "source", self.source)


@dataclass(frozen=True)
class Chip:
    """Memories, slowest first, and compute; see the docs page for the latency model that it feeds."""

    name: str
    levels: tuple[Level, ...]
    compute: tuple[Rate, ...]
    overlap: float = 1.0  # rho: 1 hides all transfers behind the longest term, 0 none
    move_cost: bool = False  # an input on another level than the output is charged a copy
    double_buffer: bool = False  # weights take twice their bytes
    external_io: str | None = None  # level where graph inputs come from and graph outputs go to
    count_bias: bool = False  # biases take part, at 32 bits
    efficiency: tuple[tuple[str, float], ...] = ()  # kind of operation -> share of ops_per_s reached
    overhead_s: float = 0.0  # of each operation
    source: str = ""
    warnings: tuple[str, ...] = ()  # said at load

    def __post_init__(self):
        _named(self.name, "chip")
        where = f"chip {self.name!r}"
        _entries(where, "levels", self.levels, Level)
        _entries(where, "compute", self.compute, Rate)
        if len(self.levels) < 2:
            raise ValueError(
                f"{where}: levels must hold a backing store and at least one memory above it, "
                f"got {[level.name for level in self.levels]}"
            )
        if len(self.levels) > _MOST_LEVELS:
            raise ValueError(
                f"{where}: levels must be at most {_MOST_LEVELS}, got {len(self.levels)}; leave out some, or "
                "join memories that are alike"
            )
        names = self.level_names
        if len(set(names)) != len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ValueError(f"{where}: level names must be unique, got {twice!r} twice")
        for level in self.levels[1:]:
            if level.capacity_bytes is None:
                raise ValueError(
                    f"{where}: capacity_bytes of level {level.name!r} is missing; only the first level, "
                    "the backing store, may be unlimited"
                )
        if not self.compute:
            raise ValueError(f"{where}: compute must list at least one rate")
        pairs = [(rate.weight_bits, rate.activation_bits) for rate in self.compute]
        if len(set(pairs)) != len(pairs):
            twice_rate = next(p for p in pairs if pairs.count(p) > 1)
            raise ValueError(f"{where}: compute lists the pair of bit-widths {twice_rate} twice")
        _number(where, "overlap", self.overlap, high=1.0)
        for name in ("move_cost", "double_buffer", "count_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{where}: {name} must be true or false, got {getattr(self, name)!r}")
        if self.external_io is not None and self.external_io not in names:
            raise ValueError(f"{where}: external_io must be one of {names}, got {self.external_io!r}")
        for name in ("efficiency", "warnings"):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(f"{where}: {name} must be a tuple, got {short(getattr(self, name))}")
        for entry in self.efficiency:
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise ValueError(f"{where}: efficiency must hold (kind, share), got {short(entry)}")
            kind, share = entry
            if kind not in KINDS:
                raise ValueError(f"{where}: efficiency names {kind!r}, which is none of {', '.join(KINDS)}")
            _number(where, f"efficiency of {kind}", share, low=_SLOWEST, high=1.0)
        _number(where, "overhead_s", self.overhead_s, high=_LARGEST)
        for text in (self.source, *self.warnings):
            _text(where, "source and warnings", text)

    @property
    def level_names(self) -> tuple[str, ...]:
        return tuple(level.name for level in self.levels)

    def level_index(self, name: str) -> int:
        """Position of a level; ValueError for an unknown name."""
        if name not in self.level_names:
            raise ValueError(f"chip {self.name!r} has levels {self.level_names}, not {name!r}")
        return self.level_names.index(name)

    def rate(self, weight_bits: int, activation_bits: int) -> Rate:
        """The smallest listed pair that holds both bit-widths; ValueError where none does."""
        for rate in self.rates_by_size:
            if rate.weight_bits >= weight_bits and rate.activation_bits >= activation_bits:
                return rate
        listed = ", ".join(f"{r.weight_bits}x{r.activation_bits}" for r in self.compute)
        raise ValueError(
            f"chip {self.name!r} lists compute rates {listed}; none holds {weight_bits}-bit weights with "
            f"{activation_bits}-bit activations"
        )

    @property
    def rates_by_size(self) -> tuple[Rate, ...]:
        """Rates by the bits of a product of both operands; ties by weight bits."""
        return tuple(sorted(self.compute, key=lambda r: (r.weight_bits + r.activation_bits, r.weight_bits)))


def _named(value: Any, what: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"name of a {what} must be text, got {value!r}")


def _number(where: str, name: str, value: Any, *, low: float = 0.0, high: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # NaN and infinities are in no range
        raise ValueError(f"{where}: {name} must be a number of [{low:g}, {high:g}], got {short(value)}")


def _whole(where: str, entry: Any, name: str, *, low: int) -> None:
    """Checks a field, and stores it as int where it is a whole number of another type."""
    value = getattr(entry, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= LARGEST:
        raise ValueError(f"{where}: {name} must be a whole number of [{low}, 2^53], got {short(value)}")
    object.__setattr__(entry, name, int(value))


def _entries(where: str, name: str, listed: Any, cls: type) -> None:
    if not isinstance(listed, tuple):
        raise ValueError(f"{where}: {name} must be a tuple of {cls.__name__}, got {short(listed)}")
    for i, entry in enumerate(listed):
        if not isinstance(entry, cls):
            raise ValueError(f"{where}: {name}[{i}] must be a {cls.__name__}, got {short(entry)}")


def _text(where: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text, got {short(value)}")
