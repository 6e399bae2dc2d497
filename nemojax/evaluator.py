"""The host's side of evaluation: each distinct configuration once, one compilation, one at a time."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from hwmodel import IMAGES, POP, Hosts, check_mesh, pieces, placed, sharded

from .custom_error import ErrorOfBits, ErrorOfOutputs, HostCost
from .objectives import Score
from .quantized import compiled_logits
from .task import Task

Rows = Int[np.ndarray, "N n"]


def _costs(task: Task, bits: Array, count: int, mesh: Mesh | None) -> Array:
    """Of a block, whose first `count` rows are wanted; without what a `_HostPart` measures afterwards."""
    score = task.score
    if isinstance(score, ErrorOfBits):
        if not score.host:
            return _costs_of_bits(task, bits, mesh=mesh)
        return _costs_of_errors(task, bits, np.zeros(len(bits), np.float32))
    if mesh is not None:
        outputs = _logits_over(task.network, bits, task.inputs, mesh)
    else:
        outputs = compiled_logits(task.network, bits, task.inputs)
    if isinstance(score, ErrorOfOutputs) and score.host:
        errors = score.errors(np.asarray(outputs)[:count], task.target)
        errors = np.pad(errors, (0, len(bits) - count), constant_values=np.inf)
        return _costs_of_errors(task, bits, errors)
    if mesh is not None:
        return _costs_over(task.replace(inputs=()), bits, outputs, mesh)  # type: ignore[attr-defined]
    return _costs_of_logits(task, bits, outputs)


class _HostPart(NamedTuple):
    """An objective of the bits that the host measures when what is compiled is known."""

    column: int  # among the task's objectives
    points: int  # so many of a configuration's entries it is given
    measure: ErrorOfBits | HostCost


def _split(task: Task) -> tuple[Task, list[_HostPart]]:
    """The task with compiled costs only, and the rest."""
    parts, compiled = [], []
    if isinstance(task.score, ErrorOfBits) and task.score.host:
        parts.append(_HostPart(0, len(task.network.workload.points), task.score))
    for column, (name, cost) in enumerate(task.costs_of_bits, 1):
        if isinstance(cost, HostCost):
            parts.append(_HostPart(column, task.space.size, cost))
        else:
            compiled.append((name, cost))
    if len(compiled) == len(task.costs_of_bits):
        return task, parts
    return task.replace(costs_of_bits=tuple(compiled)), parts  # type: ignore[attr-defined]


# Apart from the network's own compilation, which is long, so that every score shares that one.
_costs_of_logits = jax.jit(jax.vmap(Task.cost_of_logits, in_axes=(None, 0, 0)))


@partial(jax.jit, static_argnums=3)
def _logits_over(network: Any, bits: Array, inputs: Any, mesh: Mesh) -> Array:
    return sharded(compiled_logits, mesh, (None, POP, IMAGES), (POP, IMAGES))(network, bits, inputs)


@partial(jax.jit, static_argnums=3)
def _costs_over(task: Task, bits: Array, logits: Array, mesh: Mesh) -> Array:
    """Each configuration's logits on one device, so that sums over samples are in one order."""
    return sharded(_costs_of_logits, mesh, (None, POP, POP))(task, bits, logits)


_costs_of_errors = jax.jit(jax.vmap(Task.cost_of_error, in_axes=(None, 0, 0)))
_costs_of_bits = jax.jit(
    Task.costs, static_argnames="mesh"
)  # of an error of bits: it may hold a network, so one after the other


def scores(task: Task, bits: Int[Any, "K n"], others: Sequence[Score]) -> dict[str, np.ndarray]:
    """Further errors of K configurations on a task's images, (K,) each: for a report, not for a search."""
    rows = []
    for row in np.asarray(bits, np.int32):
        logits = compiled_logits(task.network, jnp.asarray(row)[None], task.inputs)[0]
        rows.append([float(_score(score, logits, task.target)) for score in others])
    table = np.array(rows).reshape(-1, len(others))
    return {score.name: column for score, column in zip(others, table.T, strict=True)}


@partial(jax.jit, static_argnums=0)
def _score(score: Score, logits: Array, target: Array) -> Array:
    return score(logits, target)


class Evaluator:
    """bits (N, n) -> costs (N, M), remembering every configuration it has evaluated.

    Attributes:
        evaluations: configurations really evaluated, the unit of a budget.
        asked: configurations asked for.
    """

    def __init__(
        self,
        task: Task,
        *,
        block: int = 1,
        on_evaluated: Callable[[int], None] | None = None,
        mesh: Mesh | None = None,
        hosts: Hosts | None = None,
    ):
        """What is evaluated where.

        What the host measures of bits gets all configurations of a call at once, whatever the block; an error
        of outputs on the host gets a block's.

        Args:
            block: configurations that go to each device in one call: 1 wastes nothing, more may suit a GPU.
            on_evaluated: told how many were evaluated after each block; of the own ones, where hosts share.
            mesh: devices that share the configurations by its axis "pop", bit for bit the costs of one
                device. By its axis "images" they share the samples, the same where each device gets whole
                micro-batches; else up to rounding, as with another `chunk`: the error within 1e-4 of itself
                (relative) where it is smooth, one sample's share where a class is decided by rounding.
            hosts: processes that share the configurations; each must ask for the same.

        Raises:
            ValueError: a block below 1, a mesh that `hwmodel.check_mesh` refuses.
        """
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        if mesh is not None:
            check_mesh(mesh, (POP, IMAGES))
        self.task, self.block, self.on_evaluated = task, block, on_evaluated
        self.mesh, self.hosts = mesh, hosts
        self._compiled, self._host = _split(task)
        if mesh is not None:
            inputs = placed(mesh, self._compiled.inputs, IMAGES)
            rest = placed(mesh, self._compiled.replace(inputs=()))  # type: ignore[attr-defined]
            self._compiled = rest.replace(inputs=inputs)
        self.evaluations = self.asked = self._kept = 0
        self._costs: dict[bytes, np.ndarray] = {}  # of what was asked for, in that order
        self._counted: dict[bytes, bool] = {}
        self._stock: dict[bytes, tuple[np.ndarray, bool]] = {}  # known from elsewhere, and whether for free

    def __call__(self, bits: Any) -> Float[np.ndarray, "N M"]:
        """Costs of N configurations; NaN and infinite ones are +inf rows.

        Raises:
            ValueError: bits of another shape, or a configuration that the task's space does not allow.
        """
        rows = np.ascontiguousarray(np.asarray(bits, np.int32))
        if rows.ndim != 2 or rows.shape[1] != self.task.space.size:
            raise ValueError(f"bits has shape {rows.shape}, the task's are (N, {self.task.space.size})")
        keys = [row.tobytes() for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._costs}
        self.asked += len(rows)
        if new and not self.task.space.contains(np.stack(list(new.values()))).all():
            raise ValueError("bits holds a configuration that the task's space does not allow")
        todo = [(key, row) for key, row in new.items() if key not in self._stock]
        found: dict[bytes, np.ndarray] = {}
        if todo:
            wanted = np.stack([row for _, row in todo])
            costs = self._evaluated(wanted) if self.hosts is None else self.hosts.map(self._evaluated, wanted)
            found = {key: cost for (key, _), cost in zip(todo, costs, strict=True)}
            for key in found:
                self._stock.pop(key, None)  # kept there in case the others had not come to their end
        for key in new:
            self._costs[key], free = self._stock.get(key) or (found[key], False)
            self._counted[key] = not free
            self.evaluations += not free
        return np.array([self._costs[key] for key in keys], np.float32).reshape(-1, len(self.task.objectives))

    def _evaluated(self, rows: Rows) -> Float[np.ndarray, "N M"]:
        """What is compiled, block after block; then what the host measures, where all else is finite."""
        blocks, self._kept = [], 0
        size = self.block * pieces(self.mesh)
        for start in range(0, len(rows), size):
            own = rows[start : start + size]
            batch = np.pad(own, ((0, size - len(own)), (0, 0)), mode="edge")
            found = _costs(self._compiled, jnp.asarray(batch), len(own), self.mesh)
            blocks.append(np.asarray(found)[: len(own)])
            if not self._host:
                self._tell(start + len(own))
        costs = np.concatenate(blocks)
        for part in self._host:
            if part.column:  # column 0, the error, is there already
                costs = np.insert(costs, part.column, 0.0, axis=1)
        for i, (column, points, measure) in enumerate(self._host, 1):
            alive = np.flatnonzero(np.isfinite(costs).all(axis=1))
            if len(alive):
                keep = (
                    partial(self._keep, rows[alive], costs[alive], column) if i == len(self._host) else None
                )
                costs[alive, column] = measure.errors(rows[alive, :points], keep)
        if self._host:
            costs[~np.isfinite(costs).all(axis=1)] = np.inf
            self._tell(len(rows))
        return costs

    def _keep(self, rows: Rows, costs: np.ndarray, column: int, i: int, found: float) -> None:
        """A measurement may have taken minutes: it is not lost if the next one is interrupted."""
        with np.errstate(over="ignore"):
            costs[i, column] = found
        row = costs[i] if np.isfinite(costs[i]).all() else np.full_like(costs[i], np.inf)
        self._stock[rows[i].tobytes()] = (row, False)
        self._kept += 1
        self._tell(self._kept)

    def _tell(self, count: int) -> None:
        if self.on_evaluated is not None:
            self.on_evaluated(self.evaluations + count)

    def like(self, task: Task) -> "Evaluator":
        """An evaluator of another task, on the same devices and hosts; it has evaluated nothing yet."""
        return Evaluator(task, block=self.block, mesh=self.mesh, hosts=self.hosts)

    @property
    def distinct(self) -> int:
        """Different configurations asked for, those for free included."""
        return len(self._costs)

    def table(self) -> dict[str, np.ndarray]:
        """What was asked for, in that order: bits (K, n) int32, costs (K, M) float32, and counted (K,),
        whether it was an evaluation.
        """
        return {
            **_table(self._costs, self.task),
            "counted": np.array(list(self._counted.values()), bool),
        }

    def everything(self) -> dict[str, np.ndarray]:
        """For a cache: first what `know` was given, then what was evaluated besides."""
        stock = {key: costs for key, (costs, _) in self._stock.items()}
        return _table({**stock, **self._costs}, self.task)

    def know(self, table: Mapping[str, Any], free: int | None = None) -> None:
        """Takes in what `everything` gave: those configurations are not evaluated again.

        Args:
            free: so many of the first rows count as no evaluation when they are asked for; default: all.
        """
        rows = self._rows(table)
        free = len(rows) if free is None else free
        self._stock = {key: (costs, i < free) for i, (key, costs) in enumerate(rows)}

    def restore(self, table: Mapping[str, Any]) -> None:
        """Takes back what `table` gave, with its count."""
        rows, counted = self._rows(table), np.asarray(table["counted"], bool)
        if counted.shape != (len(rows),):
            raise ValueError(f"counted has shape {counted.shape} for {len(rows)} configurations")
        self._costs = dict(rows)
        self._counted = dict(zip(self._costs, counted.tolist(), strict=True))
        self.evaluations = int(counted.sum())

    def _rows(self, table: Mapping[str, Any]) -> list[tuple[bytes, np.ndarray]]:
        bits, costs = np.asarray(table["bits"], np.int32), np.asarray(table["costs"], np.float32)
        objectives = len(self.task.objectives)
        if bits.shape != (len(costs), self.task.space.size) or costs.shape[1:] != (objectives,):
            raise ValueError(f"cache of shapes {bits.shape} and {costs.shape} is not of this task")
        return [(row.tobytes(), cost) for row, cost in zip(bits, costs, strict=True)]


def _table(rows: Mapping[bytes, np.ndarray], task: Task) -> dict[str, np.ndarray]:
    n, m = task.space.size, len(task.objectives)
    return {
        "bits": np.array([np.frombuffer(key, np.int32) for key in rows], np.int32).reshape(-1, n),
        "costs": np.array(list(rows.values()), np.float32).reshape(-1, m),
    }
