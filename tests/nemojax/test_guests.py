"""Guests: steps of one choice, pairs that are neighbours in cost, and what an archive gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.archive import init_archive, update_archive
from nemojax.config import Direct, NemoConfig
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting
from nemojax.species.direct import DirectBits
from nemojax.species.guests import MOST, TRIES, from_archive, invite, stepped
from nemojax.species.protocol import ask

GAPS = BitSpace.create([f"q{i}" for i in range(20)], (2, 4, 8))
PLACES = {2: 0, 4: 1, 8: 2}


def moved(key: int, genes: np.ndarray, space: BitSpace = GAPS) -> np.ndarray:
    return np.asarray(stepped(jax.random.key(key), jnp.asarray(genes, jnp.float32), space.step, space.free))


def places(genes: np.ndarray) -> np.ndarray:
    return np.vectorize(PLACES.get)(genes.astype(int))


def test_a_step_is_one_choice_also_across_gaps():
    space = BitSpace(("a", "b", "c"), ((2, 4, 8), (3,), (2, 3, 16)))
    for genes, direction, wanted in (
        ([4, 3, 3], [1, 1, 1], [8, 3, 16]),
        ([4, 3, 3], [-1, -1, -1], [2, 3, 2]),
        ([8, 3, 2], [1, 0, -1], [8, 3, 2]),  # the ends stay
        ([8, 3, 16], [-1, 0, -1], [4, 3, 3]),
        ([3.4, 3, 12], [0, 0, 1], [4, 3, 16]),  # rounded first
    ):
        found = space.step(jnp.array(genes, jnp.float32), jnp.array(direction, jnp.float32))
        np.testing.assert_array_equal(found, np.array(wanted, np.float32))


def test_every_member_moves_and_each_move_is_one_choice():
    genes = np.full((2000, 20), 4)
    change = places(moved(0, genes)) - 1
    assert set(np.unique(change)) == {-1, 0, 1}
    assert (change != 0).any(axis=1).all(), "from the middle there is always a step"
    up, down = (change == 1).sum(), (change == -1).sum()
    assert abs(up - down) < 5 * np.sqrt(up + down)


def test_half_of_the_members_move_one_gene_and_the_others_more():
    """P(one gene) is 1/2 for the neighbours, and for a share r, drawn for the others, (1 - r)^(n - 1)."""
    n, count = 20, 4000
    number = (moved(1, np.full((count, n), 4)) != 4).sum(axis=1)
    place = (np.arange(10**5) + 0.5) / 10**5
    share = np.minimum(n**-place, MOST)
    wanted = 0.5 + 0.5 * np.mean((1 - share) ** (n - 1))
    assert abs(np.mean(number == 1) - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count)
    mean = 0.5 + 0.5 * np.mean(share * n + (1 - share))  # one gene moves whatever the share says
    assert abs(number.mean() - mean) < 4 * number.std() / np.sqrt(count)


def test_every_gene_is_moved_as_often():
    often = (moved(2, np.full((6000, 20), 4)) != 4).mean(axis=0)
    np.testing.assert_allclose(often, often.mean(), rtol=0.15)


@pytest.mark.parametrize("end", [2, 8])
def test_at_an_end_steps_lead_inwards_or_nowhere(end):
    found = moved(3, np.full((400, 20), end))
    assert set(np.unique(found)) == {end, 4}
    still = np.mean((found == end).all(axis=1))
    assert 0.05 < still < 0.5, "a single step outwards changes nothing"


def test_a_step_is_never_spent_on_a_gene_without_a_choice():
    """Pinned quantizers, and the followers of a tied group, whose first one decides."""
    names = [f"q{i}" for i in range(20)]
    space = BitSpace.create(names, (2, 4, 8), {f"q{i}": 4 for i in range(12)}, ties=[names[12:18]])
    np.testing.assert_array_equal(space.free, [12, 18, 19])
    children = jnp.asarray(moved(4, np.full((600, 20), 4), space))
    bits = np.asarray(jax.vmap(space.nearest)(children))
    assert (bits != 4).any(axis=1).all(), "each is new"
    alone = (bits != 4)[:300]
    share = [alone[:, 12:18].all(axis=1).mean(), alone[:, 18].mean(), alone[:, 19].mean()]
    np.testing.assert_allclose(share, 1 / 3, atol=0.1)


# Pairs


def archive(count: int, capacity: int = 16, seed: int = 0):
    """A front: the k-th member has costs (k, count - k)."""
    bits = np.asarray(GAPS.sample(jax.random.key(seed), count))
    costs = np.stack([np.arange(count), count - np.arange(count)], axis=1).astype(np.float32)
    return jax.jit(update_archive)(init_archive(capacity, 20, 2), jnp.asarray(bits), jnp.asarray(costs)), bits


def rows(array) -> list[tuple]:
    return [tuple(row) for row in np.asarray(array).astype(int)]


HOSTS = jnp.full((3000, 20), 5.0)  # no choice of the space


def test_guests_are_the_valid_members_with_costs_of_span_one():
    full, bits = archive(9)
    guests = from_archive(full)
    assert int(guests.count) == 9
    np.testing.assert_array_equal(guests.bits[:9], bits)
    np.testing.assert_allclose(np.ptp(guests.costs[:9], axis=0), 1)
    assert np.isfinite(guests.costs).all()


def test_only_valid_members_are_invited_and_pairs_are_near():
    full, bits = archive(9)
    pair = invite(jax.random.key(0), HOSTS, HOSTS, from_archive(full))
    order = rows(bits)
    one, two = ([order.index(row) for row in rows(side)] for side in pair)
    assert np.bincount(one, minlength=9).min() > 250, "the first is drawn uniformly, 333 of each"
    gap = np.abs(np.array(one) - two)
    # Brute force: the nearest of six drawn that are not the first.
    rng, nearest = np.random.default_rng(0), []
    for _ in range(20000):
        first, others = rng.integers(9), rng.integers(9, size=TRIES)
        far = np.abs(others - first)
        nearest.append(min(far[far > 0], default=0))
    assert abs(gap.mean() - np.mean(nearest)) < 0.1
    assert np.mean(gap == 0) < 0.01


def test_an_empty_archive_changes_nothing_and_one_member_is_its_own_partner():
    empty = from_archive(init_archive(16, 20, 2))
    for side in invite(jax.random.key(0), HOSTS, HOSTS, empty):
        np.testing.assert_array_equal(side, HOSTS)
    alone, bits = archive(1)
    first, second = invite(jax.random.key(0), HOSTS, HOSTS, from_archive(alone))
    assert set(rows(first)) == set(rows(second)) == set(rows(bits))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_rate_is_the_share_of_pairs(share):
    """Nobody is crossed, mutated or steps: children are their parents."""
    n = 20
    kind = DirectBits(64, GAPS.low, GAPS.high, Direct(pair_rate=0.0, guest_rate=share, guest_pair_rate=0.0))
    params = kind.default_params.replace(mutation_rate=0.0, guests=from_archive(archive(9)[0]))
    state = kind.init(jax.random.key(0), jnp.full((64, n), 5.0), jnp.arange(64.0), params)
    first = []
    for seed in range(40):
        children, _ = kind.ask(jax.random.key(seed), state, params)
        came = (np.asarray(children) != 5).any(axis=1)
        assert (came[::2] == came[1::2]).all()
        assert came.mean() == share
        first.append(came[0])
    assert share in (0, 1) or 0 < np.mean(first) < 1, "each place is sometimes a guest's"
    if share == 0.5:
        assert (came[::2] != np.roll(came[::2], 1)).all(), "a species of few members has both"


@pytest.mark.parametrize("name", ["continuous", "floor"])
def test_children_of_guests_are_legal_and_steps_away(name):
    guests = Direct(guest_rate=1.0, guest_pair_rate=0.0)
    config = NemoConfig(species=(name,), population=64, direct=guests)
    kind = SPECIES[name](Setting(GAPS, 64, config, None))
    params = kind.params
    key = jax.random.key(0)
    state = kind.algorithm.init(key, kind.init(key), jnp.arange(64.0), params)
    full, bits = archive(9)
    children, _ = ask(kind, jax.random.key(1), state, params, full)
    found = np.asarray(kind.decode(key, children, 64))
    assert GAPS.contains(found).all()
    away = np.abs(places(found)[:, None] - places(bits)[None]).max(axis=2).min(axis=1)
    assert (away <= 1).all()
    same = (found[:, None] == bits[None]).all(-1).any(-1)
    assert same.mean() < 0.4, "but for steps outwards every child is new"
    distance = (found[:, None] != bits[None]).sum(-1).min(1)
    assert np.mean(distance <= 1) > 0.4, "half of the steps are of one gene"
