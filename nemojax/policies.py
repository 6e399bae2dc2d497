"""Graph policies that a search evolved, kept for another one: a policy fits any network's graph."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from egrljax import load_state, save_state

from .config import NemoConfig
from .nemo import NemoState
from .space import BitSpace

GRAPH_SPECIES = ("gcn", "unet", "mlp")
Policies = Mapping[str, Float[np.ndarray, "k P"]]


def policies(state: NemoState, config: NemoConfig) -> dict[str, np.ndarray]:
    """The living policies of each graph species, best first: species -> (k, P)."""
    return {
        name: np.asarray(own.population)[: int(live)]
        for name, own, live in zip(config.species, state.species, state.alloc, strict=True)
        if name in GRAPH_SPECIES
    }


def save_policies(path: str | os.PathLike[str], found: Policies, config: NemoConfig, space: BitSpace) -> None:
    """Writes policies to a file, with what their shape depends on."""
    flat = {name: np.asarray(rows, np.float32).reshape(-1) for name, rows in found.items()}
    counts = {name: np.array([len(rows)], np.int32) for name, rows in found.items()}
    save_state(path, {"genes": flat, "counts": counts}, _shape(config, space, found))


def load_policies(path: str | os.PathLike[str], config: NemoConfig, space: BitSpace) -> dict[str, np.ndarray]:
    """Reads a file of `save_policies`, for a search of another network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or of policies of another shape: hidden columns, heads, poolings, or bit-widths
            to choose from.
    """
    if not Path(path).exists():
        raise FileNotFoundError(2, "no such file", str(path))
    names = [name for name in config.species if name in GRAPH_SPECIES]
    like: dict[str, dict[str, np.ndarray]] = {
        "genes": {name: np.zeros(0, np.float32) for name in names},
        "counts": {name: np.zeros(1, np.int32) for name in names},
    }
    saved = load_state(path, like, _shape(config, space, names))
    found = {}
    for name in names:
        genes, count = np.asarray(saved["genes"][name]), int(saved["counts"][name][0])
        if count < 1 or genes.size % count:
            raise ValueError(f"{path}: {genes.size} numbers are no {count} policies of {name!r}")
        found[name] = genes.reshape(count, -1)
    return found


def _shape(config: NemoConfig, space: BitSpace, found: Iterable[str]) -> dict[str, Any]:
    fields = asdict(config.graph)
    return {
        "species": sorted(found),
        "policy": {name: fields[name] for name in ("hidden", "heads", "depth", "ratio")},
        "widths": list(space.widths),
    }
