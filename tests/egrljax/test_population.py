"""The mixed population: what children are made of, and who stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax import population as pop
from egrljax.boltzmann import Boltzmann

from .small import algorithm, small_chip, small_work, tiny


def members(config, nodes=5, size=12):
    """A population whose every gene tells whose it is."""
    own = jnp.arange(config.members, dtype=jnp.float32)
    policies, chromosomes = own[: config.policies], own[config.policies :]
    names = (jnp.arange(config.members) % 7).astype(jnp.int8)
    prior = jnp.broadcast_to(chromosomes[:, None, None, None], (len(chromosomes), nodes, 2, 3))
    return pop.Population(
        jnp.broadcast_to(policies[:, None], (config.policies, size)),
        Boltzmann(prior, jnp.zeros((len(chromosomes), nodes))),
        jnp.zeros((config.members, nodes, 2), jnp.int8).at[:, 0, 0].set(names),
        own[::-1],
    )


def test_crossover_never_makes_genes_and_the_fitter_have_more_children():
    config = tiny(mutation=0.0, cross_type=0.0, crossover=0.7, tournament=4)
    people = members(config)
    child = pop.chromosome_children(
        jax.random.key(0), people, people.fitness, jnp.zeros((4, 5, 2, 3)), 500, config
    )
    assert set(np.unique(child.prior)) <= set(range(config.policies, config.members))
    per_node = np.asarray(child.prior)
    assert (per_node == per_node[:, :, :1, :1]).all(), "a node's genes stay together"
    # The last chromosomes are the fittest here.
    counts = [np.sum(per_node == k) for k in range(config.policies, config.members)]
    assert counts[-1] > 3 * counts[0]


def test_a_child_across_types_has_the_policys_posterior():
    config = tiny(mutation=0.0, cross_type=1.0, crossover=1.0)
    people = members(config)
    logits = jax.random.normal(jax.random.key(1), (4, 5, 2, 3))
    child = pop.chromosome_children(jax.random.key(0), people, people.fitness, logits, 40, config)
    posteriors = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    for prior in np.asarray(child.prior):
        assert any(np.allclose(prior, one, atol=1e-6) for one in posteriors)
    np.testing.assert_allclose(np.exp(child.log_t), config.temperature, rtol=1e-5)


def test_elites_are_the_best_of_each_type_and_stay_bit_for_bit():
    config = tiny()
    people = members(config)
    stay = pop.elites(people.fitness, config)
    expected = [*np.argsort(people.fitness[:4])[:2], *(4 + np.argsort(people.fitness[4:])[:8])]
    np.testing.assert_array_equal(stay, expected)
    children = pop.Children(
        jnp.full((2, 12), -1.0),
        Boltzmann(jnp.full((4, 5, 2, 3), -1.0), jnp.zeros((4, 5))),
    )
    after = pop.next_population(people, stay, children, people.placement, people.fitness, config)
    np.testing.assert_array_equal(after.policies[:2, 0], expected[:2])
    np.testing.assert_array_equal(after.chromosomes.prior[:8, 0, 0, 0], expected[2:])
    np.testing.assert_array_equal(after.policies[2:], -1)
    np.testing.assert_array_equal(after.chromosomes.prior[8:], -1)


def test_repeats_are_ranked_last():
    config = tiny()
    people = members(config)  # maps repeat every seven members, the last ones are fitter
    ranked = np.asarray(pop.without_repeats(people.placement, people.fitness))
    expected = np.where(np.arange(16) >= 9, people.fitness, np.inf)
    np.testing.assert_array_equal(ranked, expected)
    luck = pop.with_luck(jax.random.key(0), jnp.asarray(ranked))
    assert sorted(np.asarray(luck).tolist()) == list(range(16))
    assert set(np.asarray(luck)[9:].tolist()) == set(range(7)), "the known ones first, by fitness"


@pytest.mark.long
def test_decisions_without_a_choice_never_vary():
    work = small_work(nodes=6)
    pinned = hw.tensors(work)[0].name
    env = egrl.environment(work, small_chip((3000, 300)), pins={pinned: "llc"})
    config = tiny()
    algo = algorithm(config, env)
    maps, _, _ = jax.jit(algo.ask)(jax.jit(algo.init)(jax.random.key(0), env), env)
    fixed = np.asarray(env.allowed.sum(-1)) == 1
    only = np.asarray(jnp.argmax(env.allowed, axis=-1))
    assert fixed.any()
    assert (np.asarray(maps)[:, fixed] == only[fixed][None]).all()
