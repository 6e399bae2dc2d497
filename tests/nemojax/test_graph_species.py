"""The graph species: legal bits, their start, sampling, edges, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.box import Box
from nemojax.config import Graph, NemoConfig, Resize
from nemojax.nemo import nemo
from nemojax.quantizer_graph import chain_graph
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting

NAMES = [f"{kind}{i}" for i in range(3) for kind in "wa"]
PLAIN = BitSpace.create(NAMES)
# Gaps, a pin, a tied pair of weights, and pairs that the hardware multiplies.
RULED = BitSpace.create(
    NAMES,
    bits=(2, 4, 8),
    pins={"a0": 8},
    ties=[("w0", "w1")],
    pairs=[(2, 4), (4, 4), (2, 8), (4, 8), (8, 8)],
    feeds=[(0, 1), (2, 3), (4, 5)],
)
POLICY = Graph(hidden=8, heads=2, depth=1)
KEY = jax.random.key(0)


def make(name, space=PLAIN, slots=12, graph=None, config=None, **changes):
    config = config or NemoConfig(graph=replace(POLICY, **changes))
    return SPECIES[name](Setting(space, slots, config, chain_graph(space.size) if graph is None else graph))


def drawn(species, seed=0, scale=2.0):
    """Genotypes far from the first ones."""
    shape = (12, species.algorithm.num_dims)
    return scale * jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module", params=["gcn", "unet", "mlp"])
def species(request):
    return make(request.param)


@pytest.mark.parametrize("ties", ["first", "sum"])
@pytest.mark.parametrize("name", ["gcn", "unet"])
def test_policies_give_legal_bits(name, ties):
    species = make(name, RULED, ties=ties)
    bits = np.asarray(species.decode(KEY, drawn(species), 12))
    assert bits.shape == (12, 6)
    assert bits.dtype == np.int32
    assert RULED.contains(bits).all()
    assert len(np.unique(bits, axis=0)) > 2
    free = make(name, ties=ties)
    assert (~RULED.contains(np.asarray(free.decode(KEY, drawn(free), 12)))).any(), "the rules matter"


def test_rows_of_the_dead_do_not_matter(species):
    genes = drawn(species)
    everyone = np.asarray(species.decode(KEY, genes, 12))
    few = np.asarray(species.decode(KEY, genes.at[5:].set(jnp.nan), jnp.int32(5)))
    np.testing.assert_array_equal(few[:5], everyone[:5])


def test_the_first_policies_cover_all_widths():
    """Each policy chooses around a level of its own: every width is the commonest choice of one, at least."""
    species = make("gcn", slots=80)
    genes = species.init(jax.random.key(1))
    assert genes.shape == (80, species.algorithm.num_dims)
    bits = np.asarray(species.decode(KEY, genes, 80))
    common = {int(np.bincount(row).argmax()) for row in bits}
    assert common == {2, 3, 4, 5, 6, 7, 8}
    assert np.mean(bits.std(axis=1)) < 1, "the choices of one policy are alike"
    assert len(np.unique(bits, axis=0)) > 20, "but not the policies"
    raw = make("gcn", slots=80, init="raw")
    bits = np.asarray(raw.decode(KEY, raw.init(jax.random.key(1)), 80))
    assert np.mean(bits.std(axis=1)) > 1


def test_a_sampled_decision_follows_its_key():
    species = make("gcn", decision="sample")
    genes = species.init(jax.random.key(0))
    one, same, other = (np.asarray(species.decode(jax.random.key(k), genes, 12)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert PLAIN.contains(one).all()
    sure = make("gcn")
    keys = (jax.random.key(k) for k in (1, 2))
    np.testing.assert_array_equal(*(sure.decode(key, genes, 12) for key in keys))


def test_a_sampled_decision_is_of_the_logits_softmax():
    """A policy of zeros has equal logits: each width has a share of 1/7."""
    species = make("mlp", decision="sample")
    genes = jnp.zeros((12, species.algorithm.num_dims))
    decode = jax.jit(lambda key: species.decode(key, genes, 12))
    bits = np.stack([decode(jax.random.key(k)) for k in range(100)])
    share = np.bincount(bits.reshape(-1), minlength=9)[2:] / bits.size
    np.testing.assert_allclose(share, 1 / 7, atol=4 * np.sqrt(6 / 49 / bits.size))
    np.testing.assert_array_equal(make("mlp").decode(KEY, genes, 12), 2)  # equal logits: the lowest width


@pytest.mark.parametrize(("name", "matters"), [("mlp", False), ("gcn", True), ("unet", True)])
def test_edges_reach_all_but_the_mlp(name, matters):
    chain = chain_graph(6)
    alone = chain._replace(senders=chain.receivers)  # every node hears itself alone
    with_edges, without = make(name), make(name, graph=alone)
    genes = drawn(with_edges)
    same = np.array_equal(with_edges.decode(KEY, genes, 12), without.decode(KEY, genes, 12))
    assert same != matters


@pytest.mark.parametrize("name", ["gcn", "unet", "mlp"])
def test_what_a_graph_species_needs(name):
    config = NemoConfig(graph=POLICY)
    with pytest.raises(ValueError, match=f"species '{name}' needs a graph of the space's 6 .* got none"):
        SPECIES[name](Setting(PLAIN, 4, config, None))
    with pytest.raises(ValueError, match="got one of 7 nodes: give graph=quantizer_graph"):
        make(name, graph=chain_graph(7))
    box = Box(np.zeros(6), np.ones(6))
    with pytest.raises(
        ValueError, match=f"species '{name}' chooses among bit-widths: give a BitSpace, not Box"
    ):
        make(name, box)


# Evolution


def state_of(species, live=12):
    genes, ranks = species.init(KEY), jnp.arange(12.0)
    state = species.algorithm.init(KEY, genes, ranks, species.params)
    return state.replace(live=jnp.int32(live))


def test_without_crossover_and_mutation_children_are_living_parents():
    config = NemoConfig(graph=replace(POLICY, crossover_rate=0.0, mutation_rate=0.0))
    copies = make("gcn", config=config)
    for live in (1, 4, 12):
        state = state_of(copies, live)
        children, _ = copies.algorithm.ask(jax.random.key(live), state, copies.params)
        parents = {row.tobytes() for row in np.asarray(state.population)[:live]}
        assert {row.tobytes() for row in np.asarray(children)[:live]} <= parents


@pytest.mark.parametrize("operators", ["tensor", "patent", "erl"])
def test_children_differ_and_are_finite(operators):
    species = make("gcn", operators=operators)
    state = state_of(species)
    children, _ = species.algorithm.ask(jax.random.key(1), state, species.params)
    assert children.shape == state.population.shape
    assert np.isfinite(children).all()
    parents = {row.tobytes() for row in np.asarray(state.population)}
    assert sum(row.tobytes() not in parents for row in np.asarray(children)) > 6


def test_tell_keeps_the_best_with_ties_to_parents(species):
    state = state_of(species)
    children = drawn(species)
    fitness = jnp.asarray(np.random.default_rng(1).integers(0, 12, 12), jnp.float32)
    told, _ = species.algorithm.tell(jax.random.key(2), children, fitness, state, species.params)
    score = np.concatenate([state.fitness, fitness])
    best = sorted(range(24), key=lambda i: (score[i], i))[:12]
    np.testing.assert_array_equal(told.population, np.concatenate([state.population, children])[best])


@pytest.mark.long
def test_policies_are_handed_over():
    """They are the first members and the first candidates; those of another size are refused."""
    config = NemoConfig(population=12, species=("gcn", "floor"), graph=POLICY, resize=Resize(rule="equal"))
    algo = nemo(config, PLAIN, 2, graph=chain_graph(6))
    species = make("gcn", config=config)
    genes = np.asarray(drawn(species))[:3]
    state = algo.init(jax.random.key(0), genotypes={"gcn": genes})
    np.testing.assert_array_equal(state.species[0].population[:3], genes)
    bits, _, _ = jax.jit(algo.ask)(state)
    np.testing.assert_array_equal(bits[:3], species.decode(KEY, jnp.asarray(genes), 3))
    with pytest.raises(ValueError, match=r"genotypes of 'gcn' must be finite .* another policy size\?"):
        algo.init(jax.random.key(0), genotypes={"gcn": genes[:, 1:]})
    with pytest.raises(ValueError, match="seeds has 7 rows, but there are 6 places"):
        algo.init(jax.random.key(0), np.full((7, 6), 4))  # no policy is known that gives them
