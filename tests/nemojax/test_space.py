"""The search space: nearest and floor against loops, sampling, pins and every refusal."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.space import PAPER_BITS, BitSpace

SPACES = [
    BitSpace(("a", "b", "c"), ((2, 3, 4, 5, 6, 7, 8), (2, 4, 8, 16), (8,))),
    BitSpace(("a", "b", "c"), ((4, 5), (3, 16), (2, 8, 9))),
    BitSpace.create(["a", "b", "c"]),
]


def genotypes(seed):
    """Anywhere around the range, whole and half numbers among them."""
    rng = np.random.default_rng(seed)
    free, halves = rng.uniform(0, 20, (40, 3)), rng.integers(0, 40, (60, 3)) / 2
    return jnp.asarray(np.concatenate([free, halves]), jnp.float32)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_nearest_and_floor_against_loops(space):
    genes = genotypes(0)
    nearest, floor = (jax.jit(jax.vmap(f))(genes) for f in (space.nearest, space.floor))
    assert nearest.dtype == floor.dtype == jnp.int32
    for row, near, below in zip(genes.tolist(), nearest.tolist(), floor.tolist(), strict=True):
        for gene, b, f, allowed in zip(row, near, below, space.allowed, strict=True):
            assert b == min(allowed, key=lambda a: (abs(a - gene), a))  # ties go to the lower one
            assert f == max([a for a in allowed if a <= gene], default=allowed[0])
    assert space.contains(np.asarray(nearest)).all()
    assert space.contains(np.asarray(floor)).all()


def test_an_allowed_bit_width_maps_to_itself():
    space = SPACES[1]
    for a in space.allowed[0]:
        for b in space.allowed[1]:
            gene = jnp.asarray([a, b, 9], jnp.float32)
            np.testing.assert_array_equal(space.nearest(gene), [a, b, 9])
            np.testing.assert_array_equal(space.floor(gene), [a, b, 9])


PINNED = BitSpace.create(["a", "b", "c"], (2, 3, 4, 5), {"b": 16})  # each set a run: the short way


@pytest.mark.parametrize("space", [*SPACES, PINNED], ids=str)
def test_nearest_and_floor_are_resolve_of_distances(space):
    choices = jnp.asarray(space.choices)
    genes = jnp.clip(genotypes(1), jnp.asarray(space.low)[None], jnp.asarray(space.high)[None])

    def both(gene):
        below = choices <= gene[:, None]
        scores = (-jnp.abs(choices - gene[:, None]), jnp.where(below, choices, -choices))
        return (space.nearest(gene), space.floor(gene)), tuple(map(space.resolve, scores))

    found, expected = jax.jit(jax.vmap(both))(genes)
    for rows, others in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, others)


@pytest.mark.parametrize("space", [SPACES[1], PINNED], ids=str)
def test_genes_that_are_no_numbers_are_clipped(space):
    genes = jnp.asarray([[np.nan, -np.inf, np.inf], [np.inf, np.nan, -1e30]], jnp.float32)
    low, high = space.low, space.high
    expected = [[low[0], low[1], high[2]], [high[0], low[1], low[2]]]
    for way in (space.nearest, space.floor):
        np.testing.assert_array_equal(jax.vmap(way)(genes), expected)


def test_resolve_takes_the_highest_score_and_the_lower_of_equal_ones():
    space = SPACES[1]
    scores = jnp.asarray([[0.0, 1.0, 9.0], [2.0, 2.0, 9.0], [-1.0, -3.0, -jnp.inf]])  # 9: padding
    np.testing.assert_array_equal(space.resolve(scores), [5, 3, 2])


def test_columns():
    space = SPACES[1]
    assert space.size == 3
    np.testing.assert_array_equal(space.low, [4, 3, 2])
    np.testing.assert_array_equal(space.high, [5, 16, 9])
    np.testing.assert_array_equal(space.choices, [[4, 5, np.inf], [3, 16, np.inf], [2, 8, 9]])
    assert space.choices.dtype == space.low.dtype == np.float32


def test_contains_against_loops():
    space, rng = SPACES[1], np.random.default_rng(0)
    rows = np.concatenate([rng.integers(2, 17, (300, 3)), np.asarray(space.sample(jax.random.key(0), 20))])
    expected = [all(b in a for b, a in zip(row, space.allowed, strict=True)) for row in rows.tolist()]
    np.testing.assert_array_equal(space.contains(rows), expected)
    assert 20 <= sum(expected) < 320


def test_uniform_takes_the_nearest_allowed():
    space = SPACES[1]
    np.testing.assert_array_equal(space.uniform(8), [5, 3, 8])
    np.testing.assert_array_equal(space.uniform(2), [4, 3, 2])
    np.testing.assert_array_equal(space.uniform(5), [5, 3, 2])  # 5 is as far from 2 as from 8
    np.testing.assert_array_equal(SPACES[2].uniform(6), [6, 6, 6])
    assert space.uniform(8).dtype == np.int32


def test_samples_are_uniform_over_each_set():
    space = SPACES[1]
    draws = np.asarray(space.sample(jax.random.key(3), 3000))
    assert draws.shape == (3000, 3)
    assert space.contains(draws).all()
    for column, allowed in zip(draws.T.tolist(), space.allowed, strict=True):
        counts = collections.Counter(column)
        for bits in allowed:
            expected = 3000 / len(allowed)
            assert abs(counts[bits] - expected) < 5 * np.sqrt(expected)
    np.testing.assert_array_equal(draws, space.sample(jax.random.key(3), 3000))
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.1


def test_equal_spaces_are_one_static_argument():
    traces = 0

    @jax.jit(static_argnums=0)
    def run(space, gene):
        nonlocal traces
        traces += 1
        return space.nearest(gene)

    for _ in range(2):
        run(BitSpace.create(["a", "b"], (2, 4)), jnp.asarray([2.5, 3.5]))
    assert traces == 1


def test_create_gives_the_papers_bits_and_pins_by_name_and_pattern():
    names = ["stem.weight", "stem.activation", "fc.weight", "fc.activation"]
    assert BitSpace.create(names).allowed == (PAPER_BITS,) * 4
    space = BitSpace.create(names, (2, 4), {"stem.*": 8, "fc.weight": 16})
    assert space.names == tuple(names)
    assert space.allowed == ((8,), (8,), (16,), (2, 4))
    agreeing = BitSpace.create(names, (2, 4), {"stem.*": 8, "*.weight": 8})
    assert agreeing.allowed == ((8,), (8,), (8,), (2, 4))


def test_pins_are_case_sensitive():
    with pytest.raises(
        ValueError, match=r"pin 'STEM.\*' matches no quantizer; the names are like 'stem.weight'"
    ):
        BitSpace.create(["stem.weight"], (2, 4), {"STEM.*": 8})


def test_contradictory_pins_are_refused():
    message = r"contradictory pins for 'a.weight': 'a.\*' wants 8 bits, '\*.weight' wants 4: drop one"
    with pytest.raises(ValueError, match=message):
        BitSpace.create(["a.weight", "b.weight"], (2, 4), {"a.*": 8, "*.weight": 4})


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ((), "bits is empty: give at least one bit-width in 2-16"),
        ((1, 2), "bits holds 1: a bit-width is a whole number in 2-16"),
        ((2, 17), "bits holds 17"),
        ((2, 32), "bits holds 32"),
        ((4, 2), r"bits must be ascending without repeats, got \[4, 2\]"),
        ((2, 2, 4), "must be ascending without repeats"),
        ((True, 2), "bits holds True"),
    ],
)
def test_impossible_bit_sets_are_refused(bits, message):
    with pytest.raises(ValueError, match=message):
        BitSpace.create(["a"], bits)
    own = "allowed must be a tuple" if any(b is True for b in bits) else message.removeprefix("bits ")
    with pytest.raises(ValueError, match=own):
        BitSpace(("a",), (bits,))


@pytest.mark.parametrize("width", [1, 17])
def test_impossible_pins_are_refused(width):
    with pytest.raises(ValueError, match=f"pin 'a' holds {width}"):
        BitSpace.create(["a"], (2, 4), {"a": width})


@pytest.mark.parametrize(
    ("names", "allowed", "message"),
    [
        ((), (), "names is empty: a search space needs at least one quantizer"),
        (("a", "b"), ((2, 4),), "allowed has 1 entries for 2 names"),
        (("a", "b", "a"), ((2, 4),) * 3, "names must be unique, got 'a' twice"),
        (("a", "b"), ((2, 4), (3, 99)), "allowed bits of 'b' holds 99"),
    ],
)
def test_impossible_spaces_are_refused(names, allowed, message):
    with pytest.raises(ValueError, match=message):
        BitSpace(names, allowed)
