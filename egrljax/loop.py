"""Running EGRL in chunks: compiled inside, plain Python at the seams."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

import hwmodel as hw

from .egrl import EGRL
from .environment import Environment, Measured, measure
from .state import EGRLState, Metrics, Ticket, keys_of, live

# maps (M, N, 2) int32 -> seconds (M,); NaN or infinite: the measurement failed. See `external`.
Board = Callable[[Int[np.ndarray, "M N 2"]], Any]
OnChunk = Callable[[EGRLState, Metrics], Any]


def step(algo: EGRL, env: Environment, state: EGRLState) -> tuple[EGRLState, Metrics]:
    """One generation with the model as the environment."""
    maps, ticket, state = algo.ask(state, env)
    return algo.tell(state, env, maps, ticket, measure(keys_of(state).measure, env, maps))


def run_chunk(algo: EGRL, env: Environment, state: EGRLState, generations: int) -> tuple[EGRLState, Metrics]:
    """A number of generations as one scan. Pure: vmap it over states for seeds.

    Sums may be in another order than in `run`, which compiles single generations.

    Args:
        generations: static; `config.generations` of them spend the budget.

    Returns:
        The state, and the metrics stacked along a new first axis.
    """
    return jax.lax.scan(lambda state, _: step(algo, env, state), state, length=generations)


def run(
    algo: EGRL,
    env: Environment,
    state: EGRLState,
    *,
    every: int = 10,
    on_chunk: OnChunk | None = None,
    board: Board | None = None,
    mesh: Mesh | None = None,
    hosts: hw.Hosts | None = None,
) -> tuple[EGRLState, Metrics | None]:
    """Run until the budget is spent.

    Args:
        every: generations between two calls of `on_chunk`; the last chunk may be shorter.
        on_chunk: called with the state and the chunk's metrics (NumPy): progress, logging, checkpoints.
            True or "stop" ends the run.
        board: measures in the model's place, on the host, the maps of a generation at once; `external` makes
            one of a program or of a function of a single map. It is asked for feasible placements only: what
            the compiler leaves of a map, and under the fitness "strict" only of maps that fit. `env.noise`
            and `env.contention` are not looked at then; `env.reference_s` should be the board's own, so that
            rewards are of order `reward.scale`.
        mesh: devices that share the maps of a generation (axis "pop") where the model measures them: on a CPU
            the numbers of one device, bit for bit. Measuring is then a compiled program of its own, whose
            latencies another device's compiler may round otherwise, which was not tried.
        hosts: processes that share the maps of a generation where a board measures them, each by its own
            board. Each calls `run` with the same arguments and gets the same result; `on_chunk` is called in
            all of them, and must answer the same: one that saves does so where `hosts.first`.

    Returns:
        The state and all metrics, NumPy arrays with the generations along the first axis; None where the
        budget was spent before.

    Raises:
        ValueError: every below 1; an answer of the board of another shape; a mesh that `hwmodel.check_mesh`
            refuses, or together with a board; hosts without a board.
        hwmodel.HostsError: another process is gone, late, failed, or measures something else.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    check_sharing(board, mesh, hosts)
    if hosts is not None and board is not None:
        board = shared_board(board, hosts)
    left = algo.config.generations - int(state.generation)
    collected: list[Metrics] = []
    while left > 0:
        count = min(every, left)
        if board is None and mesh is None:
            state, metrics = _chunk(algo, env, state, count)
        elif board is None:
            state, metrics = _mesh_chunk(algo, env, state, count, mesh)
        else:
            state, metrics = _host_chunk(algo, env, state, count, board)
        left -= count
        collected.append(metrics)
        if on_chunk is not None and hw.wants_stop(on_chunk(state, collected[-1])):
            break
    if not collected:
        return state, None
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *collected)


def check_sharing(board: Board | None, mesh: Mesh | None, hosts: hw.Hosts | None) -> None:
    """ValueError for devices or processes that have nothing to share."""
    if mesh is not None:
        hw.check_mesh(mesh)
        if board is not None:
            raise ValueError(
                "mesh is for the model, which runs on devices, and a board is not: leave one out"
            )
    if hosts is not None and board is None:
        raise ValueError("hosts share a board's maps: the model's take less than sending them, give a mesh")


def told(env: Environment, maps: Int[Array, "M N 2"], latency_s: Float[Array, " M"]) -> Measured:
    """What `tell` is told of maps that were measured elsewhere.

    Args:
        maps: as `ask` gave them out; `live` tells how many of them are within the budget.
        latency_s: seconds of their placements, `hwmodel.rectify(env.problem, maps).placement`; NaN: failed.

    Raises:
        ValueError: another number of latencies than of maps.
    """
    if latency_s.shape != maps.shape[:1]:
        raise ValueError(f"latency_s must be {maps.shape[0]} numbers, one a map, got shape {latency_s.shape}")
    found = hw.rectify(env.problem, maps)
    return Measured(latency_s, found.moved, found.valid, found.placement)


# Module-level jit, so that a second run of the same algorithm compiles nothing. One generation is what is
# compiled: so chunks of all sizes run the same program, and give the same result to the bit.
step_once = partial(jax.jit, static_argnames="algo")(step)


def _chunk(algo: EGRL, env: Environment, state: EGRLState, generations: int) -> tuple[EGRLState, Metrics]:
    rows = []
    for _ in range(generations):
        state, metrics = step_once(algo, env, state)
        rows.append(metrics)
    return state, stacked(rows)


_measure = partial(jax.jit, static_argnames="mesh")(measure)


def _mesh_chunk(
    algo: EGRL, env: Environment, state: EGRLState, generations: int, mesh: Mesh | None
) -> tuple[EGRLState, Metrics]:
    """Asked and told on one device; between the two the maps are out on the mesh."""
    rows = []
    for _ in range(generations):
        key, maps, ticket, asked = _ask_alone(algo, env, state)
        found = jax.device_get(_measure(key, env, maps, mesh=mesh))
        state, metrics = _tell(algo, env, asked, maps, ticket, jax.tree.map(jnp.asarray, found))
        rows.append(metrics)
    return state, stacked(rows)


def stacked(rows: Sequence[Metrics]) -> Metrics:
    """Of several generations, as NumPy arrays."""
    whole: Metrics = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(rows))
    return whole


@partial(jax.jit, static_argnames="algo")
def _ask_alone(algo: EGRL, env: Environment, state: EGRLState) -> Any:
    return keys_of(state).measure, *algo.ask(state, env)


@partial(jax.jit, static_argnames="algo")
def _ask(algo: EGRL, env: Environment, state: EGRLState) -> Any:
    """What was asked for, and all that is known of it before it is measured."""
    maps, ticket, state = algo.ask(state, env)
    nothing = jnp.full(maps.shape[:1], jnp.nan, env.reference_s.dtype)
    return maps, told(env, maps, nothing), ticket, state


@partial(jax.jit, static_argnames="algo")
def _tell(
    algo: EGRL, env: Environment, state: EGRLState, maps: Any, ticket: Ticket, measured: Measured
) -> Any:
    return algo.tell(state, env, maps, ticket, measured)


def _host_chunk(
    algo: EGRL, env: Environment, state: EGRLState, generations: int, board: Board
) -> tuple[EGRLState, Metrics]:
    rows = []
    for _ in range(generations):
        maps, known, ticket, state = _ask(algo, env, state)
        runs = np.arange(len(maps)) < int(live(algo.config, state))
        if algo.config.reward.fitness == "strict":
            runs &= np.asarray(known.valid)  # a map that does not fit is not run, and counts all the same
        seconds = np.full(len(maps), np.nan, np.float32)
        if runs.any():
            seconds[runs] = measured_by(board, np.asarray(known.placement)[runs])
        state, metrics = _tell(algo, env, state, maps, ticket, known._replace(latency_s=jnp.asarray(seconds)))
        rows.append(metrics)
    return state, stacked(rows)


def measured_by(board: Board, placements: Int[np.ndarray, "M N 2"]) -> Float[np.ndarray, " M"]:
    """A board's answer, checked; what is not above 0, or infinite, is NaN: failed.

    Raises:
        ValueError: another number of latencies than of placements.
    """
    seconds = np.asarray(board(placements), np.float64)
    if seconds.shape != (len(placements),):
        count = len(placements)
        raise ValueError(f"board must answer {count} latencies for {count} maps, got shape {seconds.shape}")
    return np.where((seconds > 0) & np.isfinite(seconds), seconds, np.nan)


def shared_board(board: Board, hosts: hw.Hosts) -> Board:
    """A board that measures its own part of the placements, and answers all."""

    def measured(placements: Int[np.ndarray, "M N 2"]) -> Float[np.ndarray, " M"]:
        return hosts.map(lambda own: measured_by(board, own), placements)

    return measured
