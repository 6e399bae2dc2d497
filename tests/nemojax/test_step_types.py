"""A generation leaves the state's types as they were: else the second one would compile all anew."""

import jax
import jax.numpy as jnp

from nemojax.config import NemoConfig
from nemojax.nemo import nemo
from nemojax.space import BitSpace


def test_of_the_direct_species():
    config = NemoConfig(population=20, species=("continuous", "floor"))
    algo = nemo(config, BitSpace.create([f"q{i}" for i in range(6)]), 3)

    def both(key):
        state = algo.init(key)
        bits, ticket, asked = algo.ask(state)
        costs = jnp.zeros((len(bits), 3))
        return state, algo.tell(asked, ticket, costs, jnp.zeros(len(bits)))[0]

    types = [(x.shape, x.dtype, x.weak_type) for x in jax.make_jaxpr(both)(jax.random.key(0)).out_avals]
    assert types[: len(types) // 2] == types[len(types) // 2 :]
