"""What the population, the actor, the guests and the critic hand to each other."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
from egrljax import asking, telling
from egrljax.guests import Asked
from egrljax.population import Population
from egrljax.state import Parts

from .small import algorithm, small_chip, small_work, tiny


@cache
def env():
    return egrl.environment(small_work(), small_chip())


def generations(config, count):
    """States, the first as it began, and the tickets between them."""
    algo = algorithm(config, env())
    states, tickets = [algo.init(jax.random.key(0), env())], []
    ask, tell = jax.jit(algo.ask), jax.jit(algo.tell)
    for number in range(count):
        maps, ticket, state = ask(states[-1], env())
        measured = egrl.measure(jax.random.key(number), env(), maps)
        states.append(tell(state, env(), maps, ticket, measured)[0])
        tickets.append(ticket)
    return algo, states, tickets


def holds(policies, vector):
    return [bool((row == vector).all()) for row in np.asarray(policies)]


@pytest.mark.long
def test_the_actor_moves_in_when_it_is_due_and_seeds_chromosomes():
    """Every second generation it takes a policy's place; in every third, chromosomes are like it."""
    algo, states, tickets = generations(tiny(migrate_every=2, seed_every=3, seeds=2), 4)
    for before, after, number in zip(states[:-1], states[1:], range(1, 5), strict=True):
        assert sum(holds(after.population.policies, before.learner.actor)) == (number % 2 == 0), number

    start = states[2]
    winner = int(jnp.argmin(start.ranks[:4]))
    vectors = jnp.stack([start.learner.actor, start.population.policies[winner]])
    expected = jax.nn.log_softmax(algo.learner.logits(env(), vectors), axis=-1)
    for number, ticket in enumerate(tickets, start=1):
        like = np.allclose(ticket.children.chromosomes.prior[-2:], expected, rtol=1e-4, atol=1e-5)
        assert like == (number == 3), number


@pytest.mark.long
def test_the_weakest_policy_is_the_one_that_goes():
    algo = algorithm(tiny(), env())
    config, state = algo.config, algo.init(jax.random.key(0), env())
    fitness = jnp.arange(float(config.members)).at[1].set(99.0)
    own = state.population.replace(fitness=fitness)
    placement, cost = jnp.ones((1, *env().allowed.shape[:2]), jnp.int32), jnp.array([-3.0])
    found = telling._migrate(config, state, own, placement, cost)
    assert holds(found.policies, state.learner.actor) == [False, True, False, False]
    np.testing.assert_array_equal(found.fitness, fitness.at[1].set(-3.0))
    np.testing.assert_array_equal(found.placement[1], placement[0])
    failed = telling._migrate(config, state, own, placement, jnp.array([jnp.inf]))
    np.testing.assert_array_equal(failed.policies, own.policies, "one that failed stays out")


def test_the_critic_chooses_the_best_candidates_and_new_ones_first():
    algo = algorithm(tiny(screen=3), env())
    state = algo.init(jax.random.key(0), env())
    learner = algo.learner._replace(
        value=lambda learned, env, maps: -jnp.sum(maps.astype(float), axis=(1, 2))
    )
    parts = Parts(algo.config, algo.policy, algo.genome, learner)
    maps = jax.random.randint(jax.random.key(1), (12, *env().allowed.shape[:2]), 0, 3)
    maps = maps.at[5].set(maps[4]).at[0].set(0)  # twice the same, and one the population has
    state = state.replace(generation=jnp.ones((), jnp.int32))
    (rows,) = asking._choose(parts, state, env(), [maps], [4])

    cost = np.asarray(maps).sum((1, 2))
    order = [row for row in np.argsort(cost, kind="stable") if row not in (0, 5)]
    assert rows.tolist() == order[:4]
    first = asking._choose(parts, state.replace(generation=jnp.zeros((), jnp.int32)), env(), [maps], [4])
    assert first[0].tolist() == [0, 1, 2, 3], "before it has learned"


def test_the_best_guest_becomes_a_chromosome_if_it_is_better():
    config = tiny(guests=3, strategy="SNES")
    algo = algorithm(config, env())
    own: Population = algo.init(jax.random.key(0), env()).population
    own = own.replace(fitness=jnp.arange(float(config.members)))
    weakest = config.members - 1
    solutions = jax.random.normal(jax.random.key(1), (3, env().allowed.size))
    asked = Asked(solutions, ())
    placement = jnp.ones((3, *env().allowed.shape[:2]), jnp.int32)
    found = telling._invite(config, own, asked, placement, jnp.array([5.0, 1.0, 2.0]), env())
    prior = found.chromosomes.prior[weakest - config.policies]
    np.testing.assert_array_equal(prior, solutions[1].reshape(env().allowed.shape))
    assert found.fitness[weakest] == 1.0
    assert (found.placement[weakest] == 1).all()
    worse = telling._invite(config, own, asked, placement, jnp.full((3,), 99.0), env())
    np.testing.assert_array_equal(worse.chromosomes.prior, own.chromosomes.prior)
