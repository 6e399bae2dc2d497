"""The parts of NSGA-III (Deb & Jain 2014): directions, normalisation, association, niching.

Where the paper leaves a choice (degenerate hyperplanes, tolerances) we follow pymoo 0.6.2, so that
the two agree; its tolerances 1e-3 and 1e-6 are absolute, for costs of the order of 1: `nemo` divides costs of
another scale by their units.
"""

from itertools import combinations
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from .pareto import succeeded

OTHER_AXES = 1e6  # weight of the other objectives in the achievement function
NEAR_IDEAL = 1e-3  # a distance to the ideal point below this counts as none
TOO_SMALL = 1e-6  # an intercept or a span below this is degenerate
ROWS_AT_ONCE = 256  # associated with all directions at once, so that the distances stay in the cache


def das_dennis(num_objectives: int, divisions: int) -> Float[np.ndarray, "d m"]:
    """All points of the unit simplex whose coordinates are multiples of 1/divisions (Das & Dennis 1998).

    float64, comb(divisions + m - 1, m - 1) rows in lexicographic order.

    Raises:
        ValueError: fewer than one objective or division.
    """
    if num_objectives < 1:
        raise ValueError(f"num_objectives must be at least 1, got {num_objectives}")
    if divisions < 1:
        raise ValueError(f"divisions must be at least 1, got {divisions}")
    # Stars and bars: the gaps between m-1 bars in a row of `divisions` stars.
    places = divisions + num_objectives - 1
    bars = np.array(list(combinations(range(places), num_objectives - 1)), int)
    walls = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, places)))
    return (np.diff(walls, axis=1) - 1) / divisions


def most_divisions(num_objectives: int, limit: int) -> int:
    """The most divisions that give at most `limit` directions; at least 1 (3 and 120 give 14)."""
    divisions = 1
    while num_objectives > 1 and comb(divisions + num_objectives, num_objectives - 1) <= limit:
        divisions += 1
    return divisions


@struct.dataclass
class Normalisation:
    """What NSGA-III remembers between generations, of M objectives."""

    ideal: jax.Array  # (M,) float, lowest cost ever seen; +inf before the first
    worst: jax.Array  # (M,) float, highest cost ever seen; -inf before the first
    extremes: jax.Array  # (M, M) float, row k: the point nearest to axis k; +inf before the first


def init_normalisation(num_objectives: int) -> Normalisation:
    """Nothing seen yet."""
    return Normalisation(
        ideal=jnp.full(num_objectives, jnp.inf, float),
        worst=jnp.full(num_objectives, -jnp.inf, float),
        extremes=jnp.full((num_objectives, num_objectives), jnp.inf, float),
    )


def update_normalisation(
    state: Normalisation, costs: Float[Array, "n m"], rank: Int[Array, " n"]
) -> tuple[Normalisation, Float[Array, " m"]]:
    """Take in one generation; return the new state and the nadir point.

    The nadir point is the ideal point plus the intercepts of the hyperplane through the extreme
    points, at most the worst point ever seen. If that plane is singular or an intercept is not
    positive it is the worst of the first front, and per objective the worst of this generation
    where even that coincides with the ideal point. Failed rows are ignored; if all failed, the
    state stays as it was.
    """
    objectives = costs.shape[1]
    ok = succeeded(costs)[:, None]
    front = ok & (rank == 0)[:, None]
    some = jnp.any(ok)
    low = jnp.where(ok, costs, jnp.inf)
    high = jnp.where(ok, costs, -jnp.inf)
    ideal = jnp.minimum(state.ideal, jnp.min(low, axis=0))
    worst = jnp.maximum(state.worst, jnp.max(high, axis=0))
    origin = jnp.where(some, ideal, 0)

    # Achievement scalarising function (Eq. 4), over the old extreme points and the first front.
    points = jnp.concatenate([state.extremes, costs])
    known = jnp.concatenate([jnp.all(jnp.isfinite(state.extremes), axis=1), front[:, 0]])
    shifted = jnp.where(known[:, None], points, 0) - origin[None]
    shifted = jnp.where(shifted < NEAR_IDEAL, 0, shifted)
    weights = jnp.where(jnp.eye(objectives, dtype=bool), 1, OTHER_AXES).astype(costs.dtype)
    reach = jnp.max(shifted[None] * weights[:, None], axis=2)
    chosen = jnp.argmin(jnp.where(known[None], reach, jnp.inf), axis=1)
    extremes = jnp.where(some, points[chosen], state.extremes)

    matrix = jnp.where(some, extremes - origin[None], jnp.eye(objectives, dtype=costs.dtype))
    plane = jnp.linalg.solve(matrix, jnp.ones(objectives, costs.dtype))
    residual = jnp.abs(matrix @ plane - 1)
    intercepts = 1 / plane
    sound = jnp.all(residual <= 1e-8 + 1e-5) & jnp.all(intercepts > TOO_SMALL)
    # Departs from Deb & Jain, as pymoo does: an intercept beyond everything seen is cut there.
    on_plane = jnp.minimum(origin + intercepts, worst)
    nadir = jnp.where(sound, on_plane, jnp.max(jnp.where(front, costs, -jnp.inf), axis=0))
    nadir = jnp.where(nadir - origin <= TOO_SMALL, jnp.max(high, axis=0), nadir)
    return Normalisation(ideal, worst, extremes), jnp.where(some, nadir, 1)


def associate(
    costs: Float[Array, "n m"],
    ideal: Float[Array, " m"],
    nadir: Float[Array, " m"],
    directions: Float[np.ndarray, "d m"],
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The direction with the least perpendicular distance to each normalised row, and that distance.

    c' = (c − ideal) / (nadir − ideal); the distance to a direction of unit length w is ``|(c'·w) w − c'|``.
    Ties, up to rounding, go to the first direction. Failed rows get 0 and 0.
    """
    ok = succeeded(costs)[:, None]
    span = jnp.where(nadir == ideal, 1e-12, nadir - ideal)
    normalised = jnp.where(ok, (costs - ideal[None]) / span[None], 0)
    unit = jnp.asarray((directions / np.linalg.norm(directions, axis=1, keepdims=True)).T, costs.dtype)
    index = jnp.arange(unit.shape[1], dtype=jnp.int32)
    # Rounding differs between machines and must not decide between directions that are equally near.
    slack = 16 * jnp.finfo(costs.dtype).eps * (1 + jnp.linalg.norm(normalised, axis=1))

    def one_row(row_and_slack):
        row, slack = row_and_slack
        pairs = list(zip(row, unit, strict=True))  # one per objective
        along = sum(c * w for c, w in pairs)
        squared = sum((along * w - c) ** 2 for c, w in pairs)
        nearest = jnp.sqrt(jnp.min(squared))
        # Not argmax: compilers vectorise a minimum.
        return jnp.min(jnp.where(squared > (nearest + slack) ** 2, index.size, index)), nearest

    return jax.lax.map(one_row, (normalised, slack), batch_size=ROWS_AT_ONCE)


def niche_order(
    rank: Int[Array, " n"],
    niche: Int[Array, " n"],
    distance: Float[Array, " n"],
    ok: Bool[Array, " n"],
    member_draw: Float[Array, " n"],
    niche_draw: Float[Array, " n"],
) -> Int[Array, " n"]:
    """NSGA-III's niching (Algorithm 4) as a total order of the rows, best first.

    The paper repeats: of the directions with the fewest members so far and some left in this front,
    take one; if it had none, its closest member, else any. The t-th member a direction gives, over
    all fronts, is thus taken when the direction has t members, and inside a front the smaller t go
    first. So t is a row's position in its direction's own queue, and no loop is needed.

    Args:
        ok: rows that succeeded; the others come last, by index.
        member_draw: breaks ties between members of one direction, lowest first, then by index.
        niche_draw: breaks ties between directions with equally many members, likewise.
    """
    count = rank.shape[0]
    index = jnp.arange(count, dtype=jnp.int32)
    niche = jnp.where(ok, niche, count + jnp.max(niche))  # failed rows queue for a direction of their own

    def queues(order):
        """Position of each row in its direction's queue, for an order sorted by direction."""
        ordered = niche[order]
        start = jnp.searchsorted(ordered, ordered, side="left")
        return jnp.zeros(count, jnp.int32).at[order].set(index - start.astype(jnp.int32))

    closest = queues(jnp.lexsort((member_draw, distance, rank, niche))) == 0
    turn = queues(jnp.lexsort((jnp.where(closest, -jnp.inf, member_draw), rank, niche)))
    failed = (
        jnp.zeros_like(niche_draw),
        jnp.zeros_like(turn),
        jnp.full_like(rank, jnp.iinfo(rank.dtype).max),
    )
    return jnp.lexsort([jnp.where(ok, k, f) for k, f in zip((niche_draw, turn, rank), failed, strict=True)])
