"""The direct species: decoding, parents from the living, bounds, survivors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.config import Direct, NemoConfig, Resize
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting, continuous, floor

# Gaps in the allowed bit-widths, and the third quantizer pinned.
SPACE = BitSpace(("a", "b", "c", "d"), ((2, 3, 4, 8), (2, 3, 4, 5, 6, 7, 8), (6,), (4, 16)))


KEY = jax.random.key(0)  # no species here draws when it decodes


def setting(space=SPACE, slots=20, **changes):
    return Setting(space, slots, NemoConfig(species=("floor",), **changes), None)


TOP = {"direct": Direct(floor_top=1.0)}


@pytest.fixture(scope="module", params=["continuous", "floor", "floor with a top"])
def species(request):
    if request.param == "floor with a top":
        return floor(setting(**TOP))
    return SPECIES[request.param](setting())


def start(species, fitness=None):
    genotypes = species.init(jax.random.key(0))
    fitness = jnp.arange(20.0) if fitness is None else fitness
    return species.algorithm.init(jax.random.key(1), genotypes, fitness, species.params)


def test_encoding_then_decoding_gives_the_bits_back(species):
    bits = SPACE.sample(jax.random.key(3), 200)
    np.testing.assert_array_equal(species.decode(KEY, species.encode(bits), 200), bits)


def test_first_members_are_in_the_space(species):
    genotypes = species.init(jax.random.key(0))
    assert genotypes.shape == (20, 4)
    assert SPACE.contains(np.asarray(species.decode(KEY, genotypes, 20))).all()
    assert len(np.unique(genotypes, axis=0)) > 10


def test_children_stay_within_bounds_and_pinned_genes_stay_put(species):
    eager = species.params.replace(mutation_rate=1.0)
    state = start(species)
    for seed in range(20):
        children, state = species.algorithm.ask(jax.random.key(seed), state, eager)
        assert children.shape == (20, 4)
        assert (np.asarray(children) >= species.algorithm.low).all()
        assert (np.asarray(children) <= species.algorithm.high).all()
        np.testing.assert_array_equal(children[:, 2], 6)
        assert SPACE.contains(np.asarray(species.decode(KEY, children, 20))).all()
        state = state.replace(population=children)


def test_floor_never_gives_more_bits_than_nearest():
    genes = jnp.asarray(np.random.default_rng(0).uniform(SPACE.low, SPACE.high, (500, 4)), jnp.float32)
    low, near = (make(setting()).decode(KEY, genes, 500) for make in (floor, continuous))
    assert (np.asarray(low) <= near).all()
    assert (np.asarray(low) < near).any()


def test_the_top_of_floor_belongs_to_the_highest_bit_width():
    genes = jnp.array([[8.0, 7.99, 6.0, 16.0], [8.5, 8.999, 6.0, 16.5], [9.0, 9.0, 6.0, 17.0]])
    top = floor(setting(**TOP))
    np.testing.assert_array_equal(top.decode(KEY, genes, 3), [[8, 7, 6, 16], [8, 8, 6, 16], [8, 8, 6, 16]])
    np.testing.assert_array_equal(top.algorithm.high, [9, 9, 6, 17])
    np.testing.assert_array_equal(floor(setting()).algorithm.high, SPACE.high)


def test_only_living_members_become_parents(species):
    """Without crossover and mutation the children are parents; the best dead member never is one."""
    copy = species.params.replace(pair_rate=0.0, mutation_rate=0.0)
    state = start(species, fitness=jnp.arange(20.0)[::-1])
    for live in (1, 3, 20):
        children, _ = species.algorithm.ask(jax.random.key(live), state.replace(live=jnp.int32(live)), copy)
        allowed = {tuple(row) for row in np.asarray(state.population)[:live]}
        assert {tuple(row) for row in np.asarray(children)[:live]} <= allowed


def test_better_members_have_more_children():
    """Binary tournament among 20: the better half wins with probability 1 − (1/2)² = 3/4."""
    species = continuous(setting(BitSpace.create([f"q{i}" for i in range(12)])))
    copy = species.params.replace(pair_rate=0.0, mutation_rate=0.0)
    state = start(species)
    assert len(np.unique(state.population, axis=0)) == 20
    children = np.concatenate([species.algorithm.ask(jax.random.key(k), state, copy)[0] for k in range(200)])
    better = {tuple(row) for row in np.asarray(state.population)[:10]}
    share = np.mean([tuple(row) in better for row in children])
    assert abs(share - 0.75) <= 4 * np.sqrt(0.75 * 0.25 / len(children))


def test_tell_keeps_the_best_of_parents_and_children_with_ties_to_parents(species):
    state = start(species, fitness=jnp.asarray(np.random.default_rng(0).integers(0, 6, 20), jnp.float32))
    children = species.init(jax.random.key(9))
    fitness = jnp.asarray(np.random.default_rng(1).integers(0, 6, 20), jnp.float32)
    told, _ = species.algorithm.tell(jax.random.key(2), children, fitness, state, species.params)
    everyone = np.concatenate([state.population, children])
    score = np.concatenate([state.fitness, fitness])
    best = sorted(range(40), key=lambda i: (score[i], i))[:20]
    np.testing.assert_array_equal(told.population, everyone[best])
    np.testing.assert_array_equal(told.fitness, score[best])


def test_living_count_and_numbers_are_traced(species):
    traces = 0

    @jax.jit
    def ask(key, state, params):
        nonlocal traces
        traces += 1
        return species.algorithm.ask(key, state, params)[0]

    state = start(species)
    for live, rate in ((3, 0.1), (20, 0.5)):
        params = jax.tree.map(jnp.float32, species.params.replace(mutation_rate=rate))
        ask(jax.random.key(0), state.replace(live=jnp.int32(live)), params)
    assert traces == 1


@pytest.mark.parametrize("slots", [1, 7, 65])
def test_any_number_of_slots(slots):
    """Children come in pairs and in chunks; whatever is left over does not matter."""
    species = continuous(setting(slots=slots))
    state = species.algorithm.init(KEY, species.init(KEY), jnp.zeros(slots), species.params)
    children, _ = species.algorithm.ask(KEY, state, species.params)
    assert children.shape == (slots, 4)
    assert SPACE.contains(np.asarray(species.decode(KEY, children, slots))).all()


def test_the_dead_have_children_only_where_they_may_come_to_life():
    for limited in (True, False):
        species = floor(setting(slots=200, resize=Resize(rate_limited=limited)))
        state = species.algorithm.init(KEY, species.init(KEY), jnp.zeros(200), species.params)
        children, _ = species.algorithm.ask(KEY, state.replace(live=jnp.int32(3)), species.params)
        assert np.asarray(children)[:3].all()
        assert np.asarray(children)[100:].any() != limited
