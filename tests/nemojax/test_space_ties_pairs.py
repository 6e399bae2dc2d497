"""Tied quantizers and hardware pairs: every rule against enumeration of all configurations."""

import dataclasses
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.calibration import QuantizerConfig
from nemojax.networks import Network
from nemojax.quantized import quantize
from nemojax.space import BitSpace
from nemojax.task import search_space

WIDTHS = (2, 3, 4, 8)
PAIRS = ((4, 4), (4, 8), (8, 8))


def legal_rows(space, given):
    """All legal configurations by the definition, from bit sets `given` before any narrowing."""
    rows = itertools.product(*given)
    return [
        row
        for row in rows
        if all(len({row[i] for i in group}) == 1 for group in space.groups)
        and all((row[w], row[a]) in space.pairs for w, a in space.feeds)
    ]


def random_space(seed):
    """Five quantizers with sets, ties and pairs at random; None where a space says that it cannot be."""
    rng = np.random.default_rng(seed)
    names = list("abcde")
    sets = {n: sorted(rng.choice(WIDTHS, rng.integers(1, 5), replace=False).tolist()) for n in names}
    ties = [tuple(rng.choice(names, 2, replace=False))] if rng.random() < 0.5 else []
    pairs = [(int(rng.choice(WIDTHS)), int(rng.choice(WIDTHS))) for _ in range(rng.integers(3, 12))]
    feeds = [(0, 3), (1, 3), (1, 4), (2, 4)][: rng.integers(1, 5)]
    pairs = pairs if rng.random() < 0.8 else None
    given = [tuple(sets[n]) for n in names]
    try:
        return BitSpace.create(names, sets=sets, ties=ties, pairs=pairs, feeds=feeds), given
    except ValueError as error:
        return str(error), (given, ties, pairs, feeds)


RANDOM = [random_space(seed) for seed in range(150)]
POSSIBLE = [(space, given) for space, given in RANDOM if isinstance(space, BitSpace)]


def test_enough_random_spaces_are_possible_and_constrained():
    assert 30 <= len(POSSIBLE) <= 130
    spaces = [space for space, _ in POSSIBLE]
    assert sum(bool(s.pairs) and bool(s.groups) for s in spaces) >= 8
    assert sum(bool(s.pairs) and max(map(len, s.allowed)) > 1 for s in spaces) >= 15


def test_allowed_widths_contains_and_uniform_are_of_the_legal_configurations():
    for space, given in POSSIBLE:
        check_against_enumeration(space, given)


def check_against_enumeration(space, given):
    legal = legal_rows(space, given)
    assert space.allowed == tuple(tuple(sorted(set(column))) for column in zip(*legal, strict=True))
    everything = np.array(list(itertools.product(*[sorted({*bits, 3, 16}) for bits in given])), np.int32)
    np.testing.assert_array_equal(
        space.contains(everything), [tuple(r) in set(legal) for r in everything.tolist()]
    )
    assert all(tuple(space.uniform(b).tolist()) in set(legal) for b in range(2, 17))


def test_refused_random_spaces_have_no_configuration_or_a_weight_of_several_activations():
    refused = [(error, parts) for error, parts in RANDOM if isinstance(error, str)]
    for error, (given, ties, pairs, feeds) in refused:
        if "could take widths" in error or "under pairs" in error:
            continue  # said to be refused although some configuration is legal
        index = {name: i for i, name in enumerate("abcde")}
        legal = [
            row
            for row in itertools.product(*given)
            if all(row[index[x]] == row[index[y]] for x, y in ties)
            and (pairs is None or all((row[w], row[a]) in pairs for w, a in feeds))
        ]
        assert not legal, error
        assert "no common bit-width" in error or "no bit-width is left" in error
    assert sum("no bit-width is left" in error for error, _ in refused) > 5
    assert sum("could take widths" in error for error, _ in refused) > 1


def reference_resolve(space, scores):
    """One configuration, quantizer by quantizer: leaders' scores, activations first, then weights."""
    leader = {i: group[0] for group in space.groups for i in group}
    reads = {}
    for w, a in space.feeds:
        w, a = leader.get(w, w), leader.get(a, a)
        if w != a:
            reads.setdefault(w, set()).add(a)
    row = {}
    for i in sorted(range(space.size), key=lambda i: i in reads):
        fits = [
            (scores[i][j], -b)
            for j, b in enumerate(space.allowed[i])
            if all((b, row[a]) in space.pairs for a in reads.get(i, ()))
        ]
        row[i] = -max(fits)[1]
    return [row[leader.get(i, i)] for i in range(space.size)]


LINKED = [space for space, _ in POSSIBLE if space.groups or len(space._readers)]
LINKED.sort(key=lambda space: -sum(map(len, space.allowed)))  # those with most choice first


@pytest.mark.parametrize("space", LINKED[:12], ids=range(12))
def test_resolve_nearest_and_floor_against_loops(space):
    rng = np.random.default_rng(0)
    shape = (40, *space.choices.shape)
    scores = np.float32(np.concatenate([rng.normal(size=shape), rng.integers(0, 2, shape)]))  # ties, too
    found = np.asarray(jax.jit(jax.vmap(space.resolve))(jnp.asarray(scores)))
    assert found.dtype == np.int32
    assert space.contains(found).all()
    np.testing.assert_array_equal(found, [reference_resolve(space, s.tolist()) for s in scores])
    nearest_alone = jax.jit(space.nearest)
    genes = np.float32(np.concatenate([rng.uniform(0, 10, (40, 5)), rng.integers(0, 20, (40, 5)) / 2]))
    nearest, floor = jax.jit(lambda x: (jax.vmap(space.nearest)(x), jax.vmap(space.floor)(x)))(
        jnp.asarray(genes)
    )
    for row, near, low in zip(genes, nearest, floor, strict=True):
        distance = [[-abs(g - b) for b in bits] for g, bits in zip(row, space.allowed, strict=True)]
        np.testing.assert_array_equal(near, reference_resolve(space, distance))
        below = [[b if b <= g else -b for b in bits] for g, bits in zip(row, space.allowed, strict=True)]
        np.testing.assert_array_equal(low, reference_resolve(space, below))
    for b in (3, 5, 6):
        np.testing.assert_array_equal(space.uniform(b), nearest_alone(jnp.full(5, b, jnp.float32)))


def test_samples_and_snapped_configurations_are_legal_and_legal_ones_stay():
    space, given = next((s, g) for s, g in POSSIBLE if s.groups and s.pairs and len(legal_rows(s, g)) > 3)
    legal = np.array(legal_rows(space, given), np.int32)
    sample = jax.jit(space.sample, static_argnums=1)
    draws = np.asarray(sample(jax.random.key(0), 400))
    assert {tuple(r) for r in draws.tolist()} == {tuple(r) for r in legal.tolist()}
    snap = jax.jit(jax.vmap(space.snap))
    np.testing.assert_array_equal(snap(jnp.asarray(legal)), legal)
    anything = np.random.default_rng(0).integers(2, 17, (100, space.size), dtype=np.int32)
    assert space.contains(np.asarray(snap(jnp.asarray(anything)))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_scores_that_are_no_numbers_still_give_a_legal_configuration(bad):
    space = BitSpace.create(
        "wxab", (2, 4, 8), ties=[("a", "b")], pairs=((8, 8), (4, 2)), feeds=((0, 2), (1, 3))
    )
    scores = jnp.full(space.choices.shape, bad, jnp.float32)
    for ties in ("first", "sum"):
        assert space.contains(np.asarray(space.resolve(scores, ties=ties))[None]).all()
    genes = jnp.full(4, bad, jnp.float32)
    assert space.contains(np.stack([np.asarray(space.nearest(genes)), np.asarray(space.floor(genes))])).all()


def test_a_tied_group_follows_its_first_member_or_the_sum():
    space = BitSpace.create("abc", (2, 4), ties=[("c", "a")])
    assert space.groups == ((0, 2),)
    scores = jnp.asarray([[0.0, 1.0], [5.0, 0.0], [3.0, 0.0]])
    np.testing.assert_array_equal(space.resolve(scores), [4, 2, 4])
    np.testing.assert_array_equal(space.resolve(scores, ties="sum"), [2, 2, 2])
    np.testing.assert_array_equal(space.nearest(jnp.asarray([3.5, 2.0, 2.0])), [4, 2, 4])
    with pytest.raises(ValueError, match="ties must be 'first' or 'sum', got 'last'"):
        inspect.unwrap(BitSpace.resolve)(space, scores, ties="last")


def test_weights_under_pairs_choose_by_their_activation():
    """W8A8 and W4A8 alone: activations stay at 8, weights take 4 or 8."""
    space = BitSpace.create("wa", pairs=((8, 8), (4, 8)), feeds=((0, 1),))
    assert space.allowed == ((4, 8), (8,))
    np.testing.assert_array_equal(space.nearest(jnp.asarray([6.0, 2.0])), [4, 8])
    np.testing.assert_array_equal(space.uniform(2), [4, 8])
    crossed = BitSpace.create("wa", pairs=((4, 8), (8, 4)), feeds=((0, 1),))
    np.testing.assert_array_equal(crossed.nearest(jnp.asarray([8.0, 8.0])), [4, 8])
    np.testing.assert_array_equal(crossed.floor(jnp.asarray([8.0, 7.0])), [8, 4])
    np.testing.assert_array_equal(
        crossed.contains(np.array([[4, 8], [8, 4], [8, 8], [4, 4], [99, -3]])), [1, 1, 0, 0, 0]
    )


def test_scores_by_width_line_up_with_the_choices():
    space = BitSpace.create("abc", (2, 4), {"b": 8}, sets={"c": (4, 5)})
    assert space.widths == (2, 4, 5, 8)
    scores = jnp.asarray([[1.0, 2.0, 3.0, 4.0]] * 3)
    found = space.by_choice(scores)
    np.testing.assert_array_equal(found[0], [1, 2])
    assert found[1, 0] == 4
    np.testing.assert_array_equal(found[2], [2, 3])
    np.testing.assert_array_equal(space.resolve(found), [4, 8, 5])


def test_equal_spaces_are_equal_whatever_they_were_made_from():
    plain = BitSpace(("a", "b"), ((2, 4), (2, 4)))
    assert plain == BitSpace.create("ab", (2, 4), feeds=((0, 1),))
    assert hash(plain) == hash(BitSpace.create("ab", sets={"*": (2, 4)}))
    tied = BitSpace.create("abc", (2, 4), ties=[("a", "b"), ("b", "c")])
    assert tied == BitSpace.create("abc", (2, 4), ties=["*"])
    assert tied != BitSpace.create("abc", (2, 4))
    paired = [
        BitSpace.create("wa", (4, 8), pairs=pairs, feeds=((0, 1), (0, 1)))
        for pairs in (((4, 8), (8, 8)), ((8, 8), (4, 8), (8, 8)))
    ]
    assert paired[0] == paired[1]
    assert hash(paired[0]) == hash(paired[1])


def test_sets_and_pins():
    names = ["stem.weight", "stem.activation", "fc.weight"]
    space = BitSpace.create(names, (2, 4), {"stem.weight": 16}, sets={"stem.*": (8, 16), "fc.*": (3, 5, 7)})
    assert space.allowed == ((16,), (8, 16), (3, 5, 7))
    assert BitSpace.create(["w[0]", "w[1]"], (2, 4), {"w[1]": 8}).allowed == ((2, 4), (8,))


def test_a_pin_in_a_tied_group_holds_for_all_of_it():
    assert BitSpace.create("abc", (2, 4), {"b": 4}, ties=[("a", "b")]).allowed == ((4,), (4,), (2, 4))


def test_a_weight_tied_with_its_own_activation_takes_equal_pairs():
    space = BitSpace.create("wa", pairs=PAIRS, ties=["*"], feeds=((0, 1),))
    assert space.allowed == ((4, 8), (4, 8))
    np.testing.assert_array_equal(space.nearest(jnp.asarray([7.0, 2.0])), [8, 8])


def test_a_networks_space_pairs_weights_with_what_feeds_their_operations():
    def apply(p, x):
        x = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["w"])
        return jax.nn.relu(x @ p["w"]) @ p["last"]

    rng = np.random.default_rng(0)
    params = {"w": np.float32(rng.normal(size=(12, 12))), "last": np.float32(rng.normal(size=(12, 5)))}
    config = QuantizerConfig(activation_range="minmax")
    network = quantize(Network("tied", apply, params), np.float32(rng.normal(size=(4, 2, 2, 3))), config)
    space = search_space(network, (4, 8), pairs=((4, 8), (8, 8), (4, 4)))
    assert space.names == ("input", "w.weight", "w.activation", "w_2.activation", "last.weight")
    assert space.feeds == ((1, 0), (1, 2), (4, 3))  # the weight that is read twice has two feeds
    assert search_space(network, (4, 8)) == BitSpace(space.names, ((4, 8),) * 5)
    tied = search_space(network, (4, 8), {"last.*": 4}, {"input": (8,)}, ties=["w*.activation"])
    assert tied.allowed == ((8,), (4, 8), (4, 8), (4, 8), (4,))
    assert tied.groups == ((2, 3),)
    with pytest.raises(
        ValueError, match=r"'w.weight' has one bit-width but is fed by 'input', 'w.activation'"
    ):
        search_space(network, (4, 8), pairs=((8, 8), (4, 4)))


SHARED = {"pairs": ((4, 4), (8, 8)), "feeds": ((0, 1), (0, 2))}  # one weight, two activations


def test_a_weight_of_two_activations_needs_them_tied():
    message = (
        r"'w' has one bit-width but is fed by 'a', 'b', which could take widths that no width of it goes "
        r"with under pairs \[\(4, 4\), \(8, 8\)\]: 'a' at 4, 'b' at 8. Tie or pin these activations"
    )
    with pytest.raises(ValueError, match=message):
        BitSpace.create("wab", **SHARED)
    assert BitSpace.create("wab", ties=[("a", "b")], **SHARED).allowed == ((4, 8),) * 3
    assert BitSpace.create("wab", pins={"a": 8}, **SHARED).allowed == ((8,),) * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sets": {"a": (2,), "*": (4,)}},
            r"contradictory sets for 'a': 'a' allows \[2\] bits, '\*' allows \[4\]",
        ),
        ({"sets": {"z*": (2,)}}, r"set 'z\*' matches no quantizer; the names are like 'w'"),
        ({"sets": {"a": (4, 2)}}, "set 'a' must be ascending"),
        ({"sets": {"a": ()}}, "set 'a' is empty"),
        (
            {"pins": {"a": 3}, "sets": {"*": (2, 4)}},
            r"pin 'a' wants 3 bits of 'a', but set '\*' allows \[2, 4\]",
        ),
        ({"ties": [("w", "zz")]}, "tie 'zz' matches no quantizer"),
        ({"ties": ["w"]}, r"tie \('w',\) joins only 'w': a group needs two quantizers, drop it"),
        ({"ties": [()]}, "joins nothing"),
        (
            {"ties": ["*"], "pins": {"w": 2, "b": 4}},
            r"quantizers 'w', 'a', 'b' have no common bit-width: pin 'w' gives 'w' \[2\]; .*Drop the tie",
        ),
        ({"pairs": ((8, 8),)}, "pairs needs feeds"),
        ({"pairs": (), "feeds": ((0, 1),)}, "pairs is empty, which allows nothing"),
        ({"pairs": ((8, 32),), "feeds": ((0, 1),)}, r"pair \(8, 32\) holds 32"),
        (
            {"pairs": ((8, 8),), "feeds": ((0, 3),)},
            "groups and feeds hold 3: give indices of quantizers, 0-2",
        ),
        (
            {"pairs": ((8, 8), (4, 8)), "feeds": ((0, 1),), "pins": {"w": 2}},
            r"no bit-width is left for 'w': of \[2\] none makes .* pairs \[\(4, 8\), \(8, 8\)\] with 'a'. "
            r"pin 'w' gives 'w' \[2\]; bits gives 'a'",
        ),
        (
            {"pairs": PAIRS, "feeds": ((0, 1), (2, 0))},
            None,
        ),
    ],
)
def test_impossible_options_are_refused(options, message):
    if message is None:
        message = "'w' feeds 'b' and is tied to a weight fed by 'a'"
    with pytest.raises(ValueError, match=message):
        BitSpace.create("wab", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"allowed": ((4, 8), (2, 8))},
            r"allowed bits of 'a' are \[2, 8\], of which ties and pairs leave \[8\]",
        ),
        ({"groups": ((1, 0),)}, "a group is two ascending indices or more"),
        ({"groups": ((0, 1), (0, 1))}, "groups must be disjoint"),
        ({"feeds": ()}, "feeds and pairs need each other"),
        ({"feeds": ((0, 5),)}, "hold 5"),
        ({"pairs": ((8, 8), (4, 8))}, "pairs must be ascending"),
    ],
)
def test_impossible_fields_are_refused(change, message):
    space = BitSpace.create("wa", pairs=((8, 8), (4, 8)), feeds=((0, 1),))
    assert dataclasses.replace(space) == space
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(space, **change)
