"""Other people's code where JAX is told to be strict."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def as_evosax() -> Iterator[None]:
    """evosax mixes types and ranks, also where JAX is told to be strict."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
