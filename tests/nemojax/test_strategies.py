"""Strategies of evosax as species, each in one line, under re-sizing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax import algorithms

from nemojax.config import NemoConfig, Resize
from nemojax.nemo import nemo
from nemojax.space import BitSpace
from nemojax.species import SPECIES, TRUSTED, Setting, strategy

SIX = BitSpace.create([f"q{i}" for i in range(6)])
CONFIG = NemoConfig(population=32, species=("mine", "floor"), archive_capacity=64, resize=Resize(least=12))
MARKS = {"SNES": (), "DifferentialEvolution": pytest.mark.long, "CMA_ES": pytest.mark.long}  # others are slow


def near_three(bits):
    """Two costs that agree but for the first quantizer: the best have 3 bits everywhere else."""
    b = jnp.asarray(bits).astype(jnp.float32)
    apart = jnp.mean((b - 3) ** 2, axis=1) / 25
    return jnp.stack([apart + 0.02 * b[:, 0], apart + 0.02 * (8 - b[:, 0])], axis=1)


def evolve(generations=30, seed=0):
    """Mean distance of the candidates of the first species, per generation; states; metrics."""
    algo = nemo(CONFIG, SIX, 2)

    def generation(state, _):
        live = state.alloc[0]
        bits, ticket, state = algo.ask(state)
        costs = near_three(bits)
        apart = jnp.mean((bits.astype(jnp.float32) - 3) ** 2, axis=1)
        apart = jnp.mean(apart, where=jnp.arange(32) < live)
        state, metrics = algo.tell(state, ticket, costs)
        return state, (apart, state, metrics)

    start = algo.init(jax.random.key(seed))
    apart, states, metrics = jax.jit(lambda s: jax.lax.scan(generation, s, length=generations)[1])(start)
    return np.asarray(apart), states, jax.device_get(metrics)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, pytest.mark.slow)) for name in TRUSTED]
)
def test_a_strategy_is_one_more_species_and_improves(name, monkeypatch):
    """Its candidates come nearer to the best, while its live size moves; nothing is ever NaN."""
    monkeypatch.setitem(SPECIES, "mine", strategy(getattr(algorithms, name)))
    apart, states, metrics = evolve()
    if hasattr(states.species[0], "population"):  # its members; of a distribution the candidates
        bits = np.asarray(states.bits, np.float32)[:, 0, :12]
        apart = ((bits - 3) ** 2).mean(axis=(1, 2))
    assert apart[-5:].mean() < 0.5 * apart[:2].mean()
    for leaf in jax.tree.leaves(states):
        assert not np.isnan(np.asarray(leaf, np.float64)).any()
    np.testing.assert_array_equal(metrics.alloc.sum(axis=1), 32)
    assert len(np.unique([CONFIG.sizes[0], *metrics.alloc[:, 0]])) > 1
    assert SIX.contains(np.asarray(states.bits[-1, 0, : states.alloc[-1, 0]])).all()
    kind = SPECIES["mine"](Setting(SIX, CONFIG.slots, CONFIG, None))
    if hasattr(states.species[0], "population"):
        live = states.alloc[-1, 0]
        decoded = kind.decode(jax.random.key(0), jnp.asarray(states.species[0].population[-1]), live)
        np.testing.assert_array_equal(decoded[:live], states.bits[-1, 0, :live])
    else:
        assert kind.encode is None, "a distribution takes no seeds"


def test_the_trusted_ones_are_there_by_name():
    for name in TRUSTED:
        kind = SPECIES[name](Setting(SIX, 8, CONFIG, None))
        assert type(kind.algorithm) is getattr(algorithms, name)
        assert kind.algorithm.num_dims == 6


def test_options_reach_the_strategy_and_its_params():
    kind = strategy(algorithms.DifferentialEvolution, num_diff=2, crossover_rate=0.5)
    made = kind(Setting(SIX, 8, CONFIG, None))
    assert made.algorithm.num_diff == 2
    assert made.params.crossover_rate == 0.5
    with pytest.raises(ValueError, match="SNES has no option 'sdt_init'"):
        strategy(algorithms.SNES, sdt_init=0.5)(Setting(SIX, 8, CONFIG, None))


def test_genes_beyond_the_space_and_nan_are_legal_bits():
    """A diverging strategy's genes are clipped."""
    kind = SPECIES["SNES"](Setting(SIX, 4, CONFIG, None))
    genes = jnp.array([[-1e9] * 6, [1e9] * 6, [jnp.nan] * 6, [3.4] * 6])
    bits = np.asarray(kind.decode(jax.random.key(0), genes, 4))
    np.testing.assert_array_equal(bits[[0, 1, 3]], [[2] * 6, [8] * 6, [3] * 6])
    assert SIX.contains(bits).all()


def test_others_carry_a_warning():
    with pytest.warns(UserWarning, match="PSO is not among the strategies that were seen to improve"):
        strategy(algorithms.PSO)


def test_private_fields_of_members_are_refused():
    """SAMR_GA keeps a step size for each member, which would not follow its member."""
    with pytest.warns(UserWarning, match="SAMR_GA is not among"):
        make = strategy(algorithms.SAMR_GA)
    with pytest.raises(
        ValueError, match="SAMR_GA keeps 'std' for each member, which NEMO's survival does not"
    ):
        make(Setting(SIX, 8, CONFIG, None))


def test_a_number_of_members_that_a_strategy_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"CR_FM_NES cannot be a species of 7 members \(Population size"):
        SPECIES["CR_FM_NES"](Setting(SIX, 7, CONFIG, None))
