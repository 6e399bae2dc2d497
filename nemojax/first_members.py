"""What the first members of the species are given: configurations, and policies of another search."""

from collections.abc import Mapping, Sequence

import numpy as np

from .box import Space
from .config import NemoConfig
from .species import Species


def planted(
    seeds: np.ndarray | None, config: NemoConfig, species: Sequence[Species], space: Space
) -> list[np.ndarray]:
    """Deal the seeds in turn to the species that can encode a bit-vector, as far as they have room."""
    dealt: list[list[np.ndarray]] = [[] for _ in species]
    seeds = np.zeros((0, space.size), space.dtype) if seeds is None else np.asarray(seeds, space.dtype)
    if seeds.ndim != 2 or seeds.shape[1] != space.size:
        raise ValueError(f"seeds must have the shape (k, {space.size}), got {seeds.shape}")
    if not space.contains(seeds).all():
        row = int(np.argmin(space.contains(seeds)))
        raise ValueError(f"seeds[{row}] takes a bit-width that the space does not allow")
    open_to = [s for s, kind in enumerate(species) if kind.encode is not None]
    room = sum(config.sizes[s] for s in open_to)
    if len(seeds) > room:
        raise ValueError(f"seeds has {len(seeds)} rows, but there are {room} places for them")
    for seed in seeds:
        to = min((s for s in open_to if len(dealt[s]) < config.sizes[s]), key=lambda s: len(dealt[s]))
        dealt[to].append(seed)
    return [np.array(own, space.dtype).reshape(-1, space.size) for own in dealt]


def handed(
    genotypes: Mapping[str, np.ndarray] | None, config: NemoConfig, species: Sequence[Species]
) -> list[np.ndarray]:
    """The given genotypes of each species, checked."""
    given = dict(genotypes or {})
    unknown = sorted(given.keys() - set(config.species))
    if unknown:
        raise ValueError(f"genotypes holds {unknown[0]!r}, the species are {list(config.species)}")
    rows = []
    for name, size, kind in zip(config.species, config.sizes, species, strict=True):
        genes = kind.algorithm.num_dims
        own = np.asarray(given.get(name, np.zeros((0, genes), np.float32)), np.float32)
        if own.ndim != 2 or own.shape[1] != genes or not np.isfinite(own).all():
            raise ValueError(
                f"genotypes of {name!r} must be finite (k, {genes}), got shape {own.shape}: are they of "
                "another policy size?"
            )
        rows.append(own[:size])
    return rows
