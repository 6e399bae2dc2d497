"""Evaluations as text and as a file: a row for each configuration."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from .evaluation import Evaluation
from .front_io import write_json
from .front_table import number_text, text_table
from .quantized import QuantizedNetwork
from .task import costs_by_name

SCHEMA = "frugaljax.nemo.evaluation/1"
INTERVAL = "_interval"  # end of a column that holds lower and upper bound


def evaluation_columns(
    found: Evaluation, network: QuantizedNetwork, bits: Int[np.ndarray, "K n"]
) -> dict[str, np.ndarray]:
    """Errors with their 95 % intervals, distances from full precision, and the costs of the bits.

    Name -> (K,), or (K, 2) of an interval; +inf where a configuration failed.
    """
    columns: dict[str, np.ndarray] = {}
    for k in found.top_k:
        columns[f"top{k}_error"] = found.error(k)
        columns[f"top{k}{INTERVAL}"] = found.interval(k)
    if found.kl_sum is not None:
        columns |= {"kl": found.kl, "disagreement": found.disagreement}
    for name, cost in costs_by_name(network).items():
        columns[name] = np.asarray(jax.vmap(cost)(jnp.asarray(bits)))
    return columns


def evaluation_table(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> str:
    """Aligned lines, the names in the first column."""
    rows = [("", *("95 % interval" if name.endswith(INTERVAL) else name for name in columns))]
    for i, name in enumerate(names):
        rows.append((name, *(_cell(column[i]) for column in columns.values())))
    return "\n".join(text_table(rows))


def save_evaluation(
    path: str | os.PathLike[str],
    names: Sequence[str],
    columns: Mapping[str, np.ndarray],
    found: Evaluation,
    settings: Mapping[str, Any],
) -> None:
    """Writes JSON (schemas/evaluation.schema.json); null stands for +inf, a configuration that failed."""
    rows = {
        name: {column: _number(values[i]) for column, values in columns.items()}
        for i, name in enumerate(names)
    }
    fields = {
        "images": found.images,
        "seconds": found.seconds,
        "waiting_s": found.waiting_s,
        "configurations": rows,
        "settings": dict(settings),
    }
    write_json(path, SCHEMA, fields)


def _cell(value: Any) -> str:
    if np.ndim(value):
        return "-" if np.isinf(value).any() else "-".join(f"{bound:.4f}" for bound in value)
    return number_text(float(value))


def _number(value: Any) -> Any:
    if np.ndim(value):
        return [_number(bound) for bound in value]
    return float(value) if np.isfinite(value) else None
