"""Tied quantizers and hardware pairs: which bit-widths they leave, and whether any are left.

A feed is the pair (weight, activation that is multiplied with it), a hardware pair is (weight bits,
activation bits) of a feed. A tied group is known by its first member, the leader. Everything here runs on
the host when a space is made.
"""

from collections.abc import Mapping, Sequence

from .space_rules import Groups, Pairs, Rule, check_pairs

Sets = tuple[tuple[int, ...], ...]  # bit-widths of each quantizer


def leaders(size: int, groups: Groups) -> list[int]:
    """The first member of each quantizer's group, itself where it has none."""
    leader = list(range(size))
    for group in groups:
        for i in group:
            leader[i] = group[0]
    return leader


def feeders(size: int, groups: Groups, feeds: Pairs) -> dict[int, tuple[int, ...]]:
    """Leader of a weight -> leaders of the activations that feed its group, without itself."""
    leader = leaders(size, groups)
    found: dict[int, set[int]] = {}
    for weight, activation in feeds:
        if leader[weight] != leader[activation]:
            found.setdefault(leader[weight], set()).add(leader[activation])
    return {weight: tuple(sorted(found[weight])) for weight in sorted(found)}


def check_links(size: int, groups: Groups, feeds: Pairs, pairs: Pairs) -> None:
    """ValueError unless groups are disjoint, feeds and pairs come together, and all is in canonical order."""
    members = [i for group in groups for i in group]
    for i in [*members, *(i for feed in feeds for i in feed)]:
        if not 0 <= i < size:
            raise ValueError(f"groups and feeds hold {i}: give indices of quantizers, 0-{size - 1}")
    for group in groups:
        if len(group) < 2 or list(group) != sorted(set(group)):
            raise ValueError(f"groups holds {group}: a group is two ascending indices or more")
    if len(set(members)) != len(members) or list(groups) != sorted(groups):
        raise ValueError(f"groups must be disjoint and ascending, got {groups}")
    if bool(feeds) != bool(pairs):
        raise ValueError(f"feeds and pairs need each other, got feeds {feeds} and pairs {pairs}")
    for field, links in (("feeds", feeds), ("pairs", pairs)):
        if list(links) != sorted(set(links)):
            raise ValueError(f"{field} must be ascending without repeats, got {links}")
    if pairs:
        check_pairs(pairs)


def narrow(names: Sequence[str], given: Sequence[Rule], groups: Groups, feeds: Pairs, pairs: Pairs) -> Sets:
    """The widths that occur in some legal configuration, per quantizer.

    Afterwards any choice of activations can be completed: each weight then has a width that makes an
    allowed pair with all activations that feed it.

    Raises:
        ValueError: a tied group without a common width, a quantizer that `pairs` leave none, or a weight
            whose several activations could take widths that no one width of the weight goes with.
    """
    left = [set(rule.bits) for rule in given]
    for group in groups:
        common = set.intersection(*(left[i] for i in group))
        if not common:
            told = "; ".join(_told(names, given, i) for i in group[:4])
            raise ValueError(
                f"the tied quantizers {_listed(names, group)} have no common bit-width: {told}. "
                "Drop the tie, or a pin or set of one of them"
            )
        for i in group:
            left[i] = common  # the same object: what narrows one narrows all
    if pairs:
        reads = feeders(len(names), groups, feeds)
        _narrow_to_pairs(names, given, left, leaders(len(names), groups), feeds, reads, pairs)
    return tuple(tuple(sorted(widths)) for widths in left)


def _narrow_to_pairs(
    names: Sequence[str],
    given: Sequence[Rule],
    left: list[set[int]],
    leader: list[int],
    feeds: Pairs,
    reads: Mapping[int, tuple[int, ...]],
    pairs: Pairs,
) -> None:
    """Removes from `left`, in place, until nothing changes; then looks for what could still fail."""
    for weight, activation in ((w, a) for w, activations in reads.items() for a in activations):
        if activation in reads:
            raise ValueError(
                f"under pairs, {names[activation]!r} feeds {names[weight]!r} and is tied to a weight fed by "
                f"{names[reads[activation][0]]!r}: drop the tie of a weight with another operation's "
                "activation, or tie all three"
            )

    def keep(i: int, widths: set[int], other: int) -> bool:
        """Whether quantizer i loses a width."""
        before = sorted(left[i])
        left[i] &= widths
        if not left[i]:
            raise ValueError(
                f"no bit-width is left for {names[i]!r}: of {before} none makes one of the (weight, "
                f"activation) pairs {list(pairs)} with {names[other]!r}. {_told(names, given, i)}; "
                f"{_told(names, given, other)}. Change one of the two, drop a tie of theirs, or add a pair"
            )
        return len(left[i]) < len(before)

    changed = True
    while changed:
        changed = False
        for w, a in feeds:
            if leader[w] == leader[a]:
                changed |= keep(w, {b for b, c in pairs if b == c}, a)
            else:
                changed |= keep(w, {b for b, c in pairs if c in left[a]}, a)
                changed |= keep(a, {c for b, c in pairs if b in left[w]}, w)
    for weight, activations in reads.items():
        _check_all_combinations(names, left, weight, activations, pairs)


def _check_all_combinations(
    names: Sequence[str], left: list[set[int]], weight: int, activations: tuple[int, ...], pairs: Pairs
) -> None:
    """Every combination of the activations' widths must leave the weight a width."""
    reachable: dict[frozenset[int], tuple[int, ...]] = {frozenset(left[weight]): ()}  # left -> how
    for activation in activations:
        after: dict[frozenset[int], tuple[int, ...]] = {}
        for widths, chosen in reachable.items():
            for a in sorted(left[activation]):
                fits = widths & {b for b, c in pairs if c == a}
                after.setdefault(fits, (*chosen, a))
        reachable = after
    if frozenset() in reachable:
        example = ", ".join(
            f"{names[a]!r} at {b}" for a, b in zip(activations, reachable[frozenset()], strict=False)
        )
        fed = _listed(names, activations)
        raise ValueError(
            f"{names[weight]!r} has one bit-width but is fed by {fed}, which could take widths that no "
            f"width of it goes with under pairs {list(pairs)}: {example}. Tie or pin these activations, "
            "or add pairs so that one width of the weight goes with all of theirs"
        )


def _told(names: Sequence[str], given: Sequence[Rule], i: int) -> str:
    return f"{given[i].source} gives {names[i]!r} {list(given[i].bits)}"


def _listed(names: Sequence[str], indices: Sequence[int], most: int = 4) -> str:
    shown = ", ".join(repr(names[i]) for i in indices[:most])
    return shown if len(indices) <= most else f"{shown} and {len(indices) - most} more"
