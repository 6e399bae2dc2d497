"""Any strategy of evosax as one more species, in one line: `SPECIES["mine"] = strategy(SNES, std_init=0.5)`.

Genes are bit-widths as real numbers, clipped and rounded to the nearest allowed one. evosax minimises one
number: the strategy is told each member's position in the joint order.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
from evosax import algorithms
from evosax.algorithms.base import EvolutionaryAlgorithm
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from jaxtyping import Array, Float, Int

from egrljax import as_evosax

from .protocol import Setting, Species

TRUSTED = ("DifferentialEvolution", "MR15_GA", "SNES", "CMA_ES", "Sep_CMA_ES", "MA_ES", "CR_FM_NES")
"""Strategies of evosax 0.3.2 that improve as species at their defaults (tests/nemojax/test_strategies.py)."""

_OWN_FIELDS = {"population", "fitness", "best_solution", "best_fitness", "generation_counter"}


def strategy(kind: type[EvolutionaryAlgorithm], **options: Any) -> Callable[[Setting], Species]:
    """A maker of species from a class of evosax.

    Args:
        options: the class's own keyword arguments, or numbers of its params (`std_init`, ...).

    Raises:
        ValueError: an option that the strategy does not have; when the species is made, a number of
            members that the strategy does not take, or a strategy that keeps more per member than genotype
            and fitness (NEMO's survival would not carry it along).
    """
    if kind.__name__ not in TRUSTED:
        warnings.warn(
            f"{kind.__name__} is not among the strategies that were seen to improve as a species at their "
            f"defaults: {', '.join(TRUSTED)}",
            stacklevel=2,
        )
    known = inspect.signature(kind).parameters
    arguments = {name: value for name, value in options.items() if name in known}
    numbers = {name: value for name, value in options.items() if name not in known}

    def make(setting: Setting) -> Species:
        space, slots = setting.space, setting.slots
        with as_evosax():
            genes = jnp.zeros(space.size, jnp.float32)
            try:
                algorithm = kind(population_size=slots, solution=genes, **arguments)
            except AssertionError as problem:  # evosax's way to say it
                raise ValueError(
                    f"{kind.__name__} cannot be a species of {slots} members ({problem}): give it another "
                    "share of the population, or a larger population"
                ) from problem
            params = algorithm.default_params
        unknown = sorted(numbers.keys() - {field.name for field in fields(params)})
        if unknown:
            raise ValueError(f"{kind.__name__} has no option {unknown[0]!r}")
        params = params.replace(**numbers)
        low, high = jnp.asarray(space.low), jnp.asarray(space.high)

        def decode(
            key: jax.Array, genotypes: Float[Array, "C n"], live: Int[Array, ""] | int, data: Any = None
        ) -> Array:
            return jax.vmap(space.nearest)(jnp.clip(genotypes, low[None], high[None]))

        species = Species(
            algorithm=algorithm,
            params=params,
            init=lambda key: space.sample(key, slots).astype(jnp.float32),
            decode=decode,
            encode=_as_genes if isinstance(algorithm, PopulationBasedAlgorithm) else None,
        )
        if isinstance(algorithm, PopulationBasedAlgorithm):
            _refuse_private_fields(species, kind.__name__, slots)
        return species

    return make


def _as_genes(phenotypes: Array) -> Float[Array, "k n"]:
    return phenotypes.astype(jnp.float32)


def _refuse_private_fields(species: Species, name: str, slots: int) -> None:
    genotypes = jax.ShapeDtypeStruct((slots, species.algorithm.num_dims), jnp.float32)
    ranks = jax.ShapeDtypeStruct((slots,), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    with as_evosax():
        state = jax.eval_shape(species.algorithm.init, key, genotypes, ranks, species.params)
    for field in fields(state):
        shape = getattr(getattr(state, field.name), "shape", ())
        if field.name not in _OWN_FIELDS and shape[:1] == (slots,):
            raise ValueError(
                f"{name} keeps {field.name!r} for each member, which NEMO's survival does not carry along: "
                f"choose one of {', '.join(TRUSTED)}"
            )


STRATEGIES = {name: strategy(getattr(algorithms, name)) for name in TRUSTED}
