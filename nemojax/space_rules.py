"""From what a user writes about quantizers (bits, sets, pins, ties, hardware pairs) to one rule each.

Everything here runs on the host, on tuples, when a space is made. A quantizer is an index into `names`.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

LOWEST_BITS, HIGHEST_BITS = 2, 16

Groups = tuple[tuple[int, ...], ...]  # tied quantizers, by index
Pairs = tuple[tuple[int, int], ...]


class Rule(NamedTuple):
    """What a quantizer may take, and who says so (for error messages)."""

    bits: tuple[int, ...]
    source: str


def check_bits(bits: Sequence[int], what: str) -> tuple[int, ...]:
    """Ascending unique integers in 2-16, or a ValueError that says which is not."""
    if not bits:
        raise ValueError(f"{what} is empty: give at least one bit-width in {LOWEST_BITS}-{HIGHEST_BITS}")
    given: Sequence[Any] = bits
    for b in given:
        whole = not isinstance(b, bool) and isinstance(b, Real) and float(b).is_integer()
        if not whole or not LOWEST_BITS <= b <= HIGHEST_BITS:
            raise ValueError(
                f"{what} holds {b}: a bit-width is a whole number in {LOWEST_BITS}-{HIGHEST_BITS}"
            )
    if list(bits) != sorted(set(bits)):
        raise ValueError(f"{what} must be ascending without repeats, got {list(bits)}")
    return tuple(int(b) for b in given)


def check_pairs(pairs: Iterable[tuple[int, int]] | None) -> Pairs:
    """Hardware pairs ascending without repeats; () for None."""
    if pairs is None:
        return ()
    found = [tuple(pair) for pair in pairs]
    for pair in found:
        if len(pair) != 2:
            raise ValueError(f"pairs holds {pair}: a pair is (weight bits, activation bits)")
        for b in pair:
            check_bits((b,), f"pair {pair}")
    if not found:
        raise ValueError("pairs is empty, which allows nothing: give (weight bits, activation bits) or None")
    return tuple(sorted({(int(w), int(a)) for w, a in found}))


def matching(names: Sequence[str], pattern: str, what: str) -> list[int]:
    """Indices of the names that are `pattern` or match it as a glob, case-sensitively; at least one."""
    found = [i for i, name in enumerate(names) if name == pattern or fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise ValueError(f"{what} {pattern!r} matches no quantizer; the names are like {names[0]!r}")
    return found


def rules(
    names: Sequence[str],
    bits: tuple[int, ...],
    pins: Mapping[str, int],
    sets: Mapping[str, Sequence[int]],
) -> list[Rule]:
    """One rule per quantizer: its pin, else its set, else `bits`.

    Raises:
        ValueError: a pattern that matches nothing, patterns that contradict each other, or a pin outside
            a set of the same quantizer.
    """
    wanted: dict[int, tuple[tuple[int, ...], str]] = {}
    for pattern, given in sets.items():
        allowed = check_bits(tuple(given), f"set {pattern!r}")
        for i in matching(names, pattern, "set"):
            before, other = wanted.setdefault(i, (allowed, pattern))
            if before != allowed:
                raise ValueError(
                    f"contradictory sets for {names[i]!r}: {other!r} allows {list(before)} bits, "
                    f"{pattern!r} allows {list(allowed)}: drop one"
                )
    pinned: dict[int, tuple[int, str]] = {}
    for pattern, width in pins.items():
        check_bits((width,), f"pin {pattern!r}")
        for i in matching(names, pattern, "pin"):
            before_width, other = pinned.setdefault(i, (int(width), pattern))
            if before_width != width:
                raise ValueError(
                    f"contradictory pins for {names[i]!r}: {other!r} wants {before_width} bits, "
                    f"{pattern!r} wants {width}: drop one"
                )
            if i in wanted and width not in wanted[i][0]:
                raise ValueError(
                    f"pin {pattern!r} wants {width} bits of {names[i]!r}, but set {wanted[i][1]!r} allows "
                    f"{list(wanted[i][0])}: drop one, or add {width} to the set"
                )
    found = []
    for i in range(len(names)):
        if i in pinned:
            found.append(Rule((pinned[i][0],), f"pin {pinned[i][1]!r}"))
        elif i in wanted:
            found.append(Rule(wanted[i][0], f"set {wanted[i][1]!r}"))
        else:
            found.append(Rule(bits, "bits"))
    return found


def tied_groups(names: Sequence[str], ties: Iterable[str | Sequence[str]]) -> Groups:
    """One group per entry of names or glob patterns; entries that share a quantizer become one group.

    Groups are ordered by their first member, members by their place in `names`.
    """
    groups: list[set[int]] = []
    for entry in ties:
        patterns = (entry,) if isinstance(entry, str) else tuple(entry)
        members = {i for pattern in patterns for i in matching(names, pattern, "tie")}
        if len(members) < 2:
            only = f"only {names[min(members)]!r}" if members else "nothing"
            raise ValueError(f"tie {patterns} joins {only}: a group needs two quantizers, drop it")
        for other in [group for group in groups if group & members]:
            members |= other
            groups.remove(other)
        groups.append(members)
    return tuple(sorted(tuple(sorted(group)) for group in groups))
