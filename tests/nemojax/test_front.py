"""The front: what it keeps, how points are chosen from it, and how it reads as text."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.front import Front
from nemojax.front_table import spread, text_table

NAMES = ("input", "stem.weight", "stem.activation", "head.weight")
THREE = ("top5_error", "model_ratio", "bitops_max")


def brute_front(costs):
    """Rows that are finite, dominated by no other, and the first of their equals, by definition."""
    keep = []
    for i, a in enumerate(costs):
        if not np.isfinite(a).all():
            continue
        others = [(j, b) for j, b in enumerate(costs) if j != i and np.isfinite(b).all()]
        beaten = any((b <= a).all() and (b < a).any() for _, b in others)
        if not beaten and not any((a == b).all() for j, b in others if j < i):
            keep.append(i)
    return keep


def make(costs, objectives=THREE, bits=None, **more):
    """A front of rows that are not dominated, each with bits of its own."""
    costs = np.asarray(costs, float)
    if bits is None:
        bits = 2 + np.arange(len(costs))[:, None] % 7 + np.zeros((1, len(NAMES)), int)
    return Front(bits, costs, objectives[: costs.shape[1]], NAMES, **more)


# --- what a front keeps


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_of_keeps_what_brute_force_keeps(seed, objectives):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 5, (60, objectives)).astype(float)  # many ties and duplicates
    costs[rng.random(60) < 0.1, 0] = np.inf
    costs[3, 1], costs[costs == 4] = np.nan, -0.0
    bits = rng.integers(2, 9, (60, len(NAMES)))
    column = rng.random(60)
    front = Front.of(bits, costs, "abcd"[:objectives], NAMES, held_out={"report": column})
    rows = brute_front(costs)
    assert sorted(map(tuple, front.costs)) == sorted(tuple(costs[i]) for i in rows)
    at = {(*b, *c): v for b, c, v in zip(bits.tolist(), (costs + 0.0).tolist(), column, strict=True)}
    for b, c, value in zip(front.bits.tolist(), front.costs.tolist(), front.held_out["report"], strict=True):
        assert at[(*b, *c)] == value
        equal = [tuple(other) for other, cost in zip(bits.tolist(), costs.tolist(), strict=True) if cost == c]
        assert tuple(b) == min(equal)
    assert front.costs.tolist() == sorted(front.costs.tolist())
    assert not np.signbit(front.costs).any()


@pytest.mark.parametrize("seed", range(3))
def test_of_does_not_depend_on_the_order_of_its_rows(seed):
    rng = np.random.default_rng(seed)
    bits, costs = rng.integers(2, 9, (40, 4)), rng.integers(0, 4, (40, 3))
    order = rng.permutation(40)
    one, two = Front.of(bits, costs, THREE, NAMES), Front.of(bits[order], costs[order], THREE, NAMES)
    np.testing.assert_array_equal(one.bits, two.bits)
    np.testing.assert_array_equal(one.costs, two.costs)


def test_of_takes_jax_arrays_and_keeps_their_values():
    costs = jnp.array([[0.1, 0.3], [0.2, 0.2]], jnp.float32)
    front = Front.of(jnp.array([[2, 3, 4, 32], [16, 3, 4, 5]]), costs, THREE[:2], NAMES, {"shape": (1, 2)})
    np.testing.assert_array_equal(front.costs, np.asarray(costs, np.float64))
    assert (front.bits.dtype, front.costs.dtype, front.bits.max()) == (np.int32, np.float64, 32)
    assert front.settings == {"shape": [1, 2]}  # as JSON gives it back


def test_a_front_cannot_be_changed():
    bits = np.full((1, 4), 8)
    front = make([[0.1, 0.2, 0.3]], bits=bits)
    bits[:] = 2
    assert (front.bits == 8).all()
    for array in (front.bits, front.costs):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objectives": ()}, "objectives is empty"),
        ({"objectives": ("kl", "kl")}, "objectives must be unique, got 'kl' twice"),
        ({"objectives": ("kl", "")}, "objectives must be non-empty strings"),
        ({"names": ()}, "names is empty"),
        ({"names": ("a", "a")}, "names must be unique, got 'a' twice"),
        ({"names": ("a",)}, "bits must have one column for each of 1 names"),
        ({"bits": np.full(2, 8)}, "bits must have one column for each of 2 names"),
        ({"bits": np.full((2, 2), 8.0)}, "bits must be whole numbers, got float64"),
        ({"bits": np.array([[8, 8], [8, 1]])}, "bits of 'b' in row 1 are 1: a bit-width is 2-16, or 32"),
        ({"bits": np.array([[8, 17], [8, 8]])}, "bits of 'b' in row 0 are 17"),
        ({"bits": np.array([[31, 8], [8, 8]])}, "bits of 'a' in row 0 are 31"),
        ({"bits": np.zeros((0, 2), int), "costs": np.zeros((0, 2))}, "costs must be 0 rows .* not empty"),
        ({"costs": np.array([[0.1, 0.2]])}, "costs must be 2 rows .* by 2 objectives"),
        ({"costs": np.array([[0.1], [0.2]])}, "costs must be 2 rows"),
        ({"costs": np.array([[0.1, np.inf], [0.2, 0.1]])}, "costs of row 0 must be finite, mr is inf"),
        ({"costs": np.array([[0.1, 0.2], [0.1, 0.3]])}, "row 1 is dominated"),
        ({"held_out": {"kl": np.zeros(2)}}, "held_out 'kl' is also an objective"),
        ({"held_out": {"x": np.zeros(3)}}, r"held_out 'x' must be 2 finite numbers, got shape \(3,\)"),
        ({"held_out": {"x": np.array([0, np.nan])}}, "held_out 'x' must be 2 finite numbers"),
        ({"settings": {"x": np.float32(1)}}, "settings cannot be JSON"),
        ({"settings": {"x": float("nan")}}, "settings cannot be JSON"),
        ({"settings": {"x": {(1, 2): 3}}}, "settings cannot be JSON"),
    ],
)
def test_construction_says_what_is_wrong(change, message):
    right = {
        "bits": np.array([[8, 8], [8, 7]]),
        "costs": np.array([[0.1, 0.2], [0.2, 0.1]]),
        "objectives": ("kl", "mr"),
        "names": ("a", "b"),
    }
    assert len(Front(**right)) == 2
    with pytest.raises(ValueError, match=message):
        Front(**{**right, **change})


def test_of_says_what_is_wrong():
    bits, costs = np.full((2, 4), 8), np.zeros((2, 3))
    with pytest.raises(ValueError, match="equally many rows"):
        Front.of(bits[:1], costs, THREE, NAMES)
    with pytest.raises(ValueError, match="equally many rows"):
        Front.of(bits[0], costs, THREE, NAMES)
    with pytest.raises(ValueError, match="equally many rows"):
        Front.of(bits, costs, THREE, NAMES, held_out={"x": np.zeros(3)})
    with pytest.raises(ValueError, match="no finite row among 2: every evaluation failed"):
        Front.of(bits, costs + np.inf, THREE, NAMES)


# --- hypervolume


def test_hypervolume_of_boxes():
    assert make([[0.25, 0.5, 0.5]]).hypervolume() == pytest.approx(0.75 * 0.5 * 0.5, abs=1e-15)
    two = make([[0.2, 0.6], [0.5, 0.1]])
    assert two.hypervolume(1) == pytest.approx(0.3 * 0.4 + 0.5 * 0.9, abs=1e-15)
    assert two.hypervolume((0.5, 2.0)) == pytest.approx(0.3 * 1.4, abs=1e-15)  # the second is not below it
    assert make([[1.0, 0.0], [0.0, 1.0]]).hypervolume() == 0


@pytest.mark.parametrize("seed", range(3))
def test_hypervolume_counts_the_cells_of_a_lattice(seed):
    rng = np.random.default_rng(seed)
    front = Front.of(rng.integers(2, 9, (30, 4)), rng.integers(0, 9, (30, 3)), THREE, NAMES)
    cells = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = (front.costs[None] <= cells[:, None]).all(-1).any(1)
    assert front.hypervolume(8) == pytest.approx(inside.sum(), abs=1e-9)


@pytest.mark.parametrize("reference", [(1.0, 1.0), np.ones((1, 3)), np.inf, (1.0, 1.0, np.nan)])
def test_hypervolume_needs_a_reference_that_fits(reference):
    with pytest.raises(ValueError, match="reference must be one finite number or 3 of them"):
        make([[0.1, 0.2, 0.3]]).hypervolume(reference)


# --- pick

TRADE = [[0.08, 0.25, 0.30], [0.10, 0.20, 0.25], [0.10, 0.22, 0.20], [0.30, 0.125, 0.15], [0.90, 0.06, 0.10]]


@pytest.mark.parametrize(
    ("limits", "index"),
    [
        ({}, 0),
        ({"model_ratio": 1}, 0),
        ({"model_ratio": 0.249}, 1),  # equal errors: the next objective decides
        ({"model_ratio": 0.125}, 3),
        ({"model_ratio": 0.125 * (1 - 5e-7)}, 3),  # within float32 rounding
        ({"model_ratio": 0.125 * (1 - 5e-6)}, 4),
        ({"model_ratio": 0.249, "bitops_max": 0.22}, 2),
        ({"top5_error": 0.1, "bitops_max": 0.2}, 2),
    ],
)
def test_pick_takes_the_lowest_error_within_the_limits(limits, index):
    point = make(TRADE).pick(**limits)
    assert point.index == index
    assert point.costs == dict(zip(THREE, TRADE[index], strict=True))
    assert point.bits.tolist() == [2 + index] * 4


def test_pick_takes_the_first_of_equals():
    assert make([[0.2, 0.1], [0.1, 0.2], [0.1, 0.2]]).pick().index == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"size": 1.0}, "'size' is no objective here: limit any of top5_error, model_ratio, bitops_max"),
        ({"model_ratio": float("nan")}, "the limit of model_ratio must be finite"),
        (
            {"model_ratio": 0.05},
            "no point has model_ratio <= 0.05: the lowest is model_ratio 0.06: raise a limit",
        ),
        (
            {"model_ratio": 0.13, "top5_error": 0.1},
            "the lowest is model_ratio 0.2, top5_error 0.3 .each within the other limits",
        ),
        (
            {"model_ratio": 0.01, "bitops_max": 0.25, "top5_error": 0.09},
            "the lowest is no model_ratio at all, no bitops_max at all, no top5_error at all",
        ),
    ],
)
def test_pick_names_the_best_that_there_is(limits, message):
    with pytest.raises(ValueError, match=message):
        make(TRADE).pick(**limits)
    with pytest.raises(ValueError, match=message):
        make(TRADE).knee(**limits)


def test_a_point_carries_everything_about_it():
    front = make(TRADE, settings={"seed": 3}, held_out={"report_top1_error": np.arange(5.0)})
    point = front.configuration(2)
    assert point.held_out == {"report_top1_error": 2.0}
    assert (point.settings, point.names, point.objectives, point.index) == ({"seed": 3}, NAMES, THREE, 2)
    for index in (-1, 5):
        with pytest.raises(ValueError, match=f"index must be in 0-4, got {index}"):
            front.configuration(index)


# --- knee


def test_knee_is_farthest_from_the_line_through_the_extremes():
    x = np.linspace(0.05, 1, 40)
    costs = np.column_stack([x, 0.05 / x])[::-1]
    (ax, ay), (bx, by) = np.array([costs[0], costs[-1]])
    # As it is drawn: both axes scaled to [0, 1], and the distance to the line from (0, 1) to (1, 0).
    u, v = (costs[:, 0] - bx) / (ax - bx), (costs[:, 1] - ay) / (by - ay)
    distance = np.abs(u + v - 1) / np.sqrt(2)
    assert make(costs).knee().index == int(np.argmax(distance))
    assert 5 < int(np.argmax(distance)) < 35


def test_knee_does_not_depend_on_units():
    rng = np.random.default_rng(0)
    front = Front.of(rng.integers(2, 9, (200, 4)), rng.random((200, 3)), THREE, NAMES)
    other = make(front.costs * [1e3, 1e-3, 7] + [5, -2, 0], bits=front.bits)
    assert front.knee().index == other.knee().index


def test_two_sizes_that_fall_together_count_once():
    error, size = np.array([0.0, 0.2, 1.0]), np.array([1.0, 0.5, 0.0])
    costs = np.column_stack([error, size, size])
    # Equal weights would take the smallest network: sums 2, 1.2 and 1. Weights 1, 1/2, 1/2: 1, 0.7 and 1.
    assert make(costs).knee().index == 1
    assert make(costs[:, :2]).knee().index == 1


def test_knee_with_a_plane_in_three_dimensions():
    corners = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])  # plane: w = (1/2, 1/2, 1/2)
    inner = np.array([[0.9, 0.1, 0.4], [0.5, 0.5, 0.1], [0.3, 0.4, 0.35]])  # sums 1.4, 1.1, 1.05
    assert make(np.concatenate([corners, inner])).knee().index == 5


def test_the_plane_weighs_the_objectives():
    lowest = [[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [1.0, 1.0, 0.0]]  # plane: w = (1/2, 1/2, 1)
    others = [
        [0.2, 0.9, 1.0],
        [0.5, 0.5, 0.4],
        [0.7, 0.65, 0.1],
    ]  # w·z = 1.55, 0.9, 0.775; sums 2.1, 1.4, 1.45
    assert make(lowest + others).knee().index == 5


def test_knee_falls_back_to_equal_weights():
    costs = np.array([[0.0, 0.1, 0.1], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.9, 0.05, 0.5]])
    plane = np.linalg.solve(costs[:3], np.ones(3))
    assert (plane < 0).any()
    assert np.argmin(costs @ plane) == 3
    assert make(costs).knee().index == 0  # sums 0.2, 2, 2, 1.45


def test_knee_of_a_straight_front_is_its_first_point_in_spite_of_rounding():
    x = np.linspace(0, 1, 50)
    costs = np.column_stack([0.1 + 0.3 * x, 0.7 * (1 - x)])
    scaled = (costs - costs.min(axis=0)) / np.ptp(costs, axis=0)
    assert np.argmin(scaled.sum(axis=1)) > 0  # rounding alone would take this one
    assert make(costs).knee().index == 0


@pytest.mark.parametrize(
    ("costs", "index"),
    [
        ([[0.3, 0.2]], 0),
        ([[0.1, 0.9], [0.2, 0.8]], 0),  # both on the line: the lowest row
        ([[0.2, 0.8], [0.1, 0.9]], 0),
        ([[0.0, 0.5, 1.0], [0.3, 0.5, 0.3], [1.0, 0.5, 0.0]], 1),  # the middle objective is flat
        ([[0.4, 0.4], [0.4, 0.4]], 0),  # all equal
    ],
)
def test_knee_of_degenerate_fronts(costs, index):
    assert make(costs).knee().index == index


def test_limits_keep_useless_networks_from_stretching_the_scale():
    costs = [[0.001, 0.30], [0.01, 0.20], [0.4, 0.15], [2.0, 0.10], [9.0, 0.05]]
    assert make(costs, ("kl", "model_ratio")).knee().index == 3
    assert make(costs, ("kl", "model_ratio")).knee(kl=0.5).index == 1


# --- text


def test_table_of_a_small_front():
    front = make(TRADE, held_out={"report_top1_error": np.arange(5) / 8})
    head, *lines, foot = front.table().splitlines()
    titles = ["point", *THREE, "report_top1_error", "weight bits", "activation bits"]
    assert " ".join(head.split()) == " ".join(titles)
    assert [line.split()[0] for line in lines] == ["4", "3", "1", "2", "0"]  # by model_ratio
    assert lines[0].split()[1:] == ["0.9", "0.06", "0.1", "0.5", "6", "6"]
    assert [line.split()[0] for line in lines if line.endswith("<- knee")] == [str(front.knee().index)]
    assert foot == "5 of 5 points (lower is better)"


def test_table_of_a_large_front_has_the_lowest_error_of_each_slice_and_the_knee():
    rng = np.random.default_rng(1)
    costs = rng.random((400, 3)) ** [1, 2, 1]
    front = Front.of(rng.integers(2, 9, (400, 4)), costs, THREE, NAMES)
    assert len(front) > 20
    lines = front.table(rows=6).splitlines()
    shown = [int(line.split()[0]) for line in lines[1:-1]]
    size = front.costs[:, 1]
    edges = np.linspace(size.min(), size.max(), 6)
    want = {front.knee().index}
    for low, high in itertools.pairwise(edges):
        inside = [i for i in range(len(front)) if low <= size[i] < high or size[i] == high == edges[-1]]
        want |= {min(inside, key=lambda i: tuple(front.costs[i]))} if inside else set()
    assert shown == sorted(want, key=lambda i: size[i])
    assert len(shown) <= 6
    assert lines[-1].startswith(
        f"{len(shown)} of {len(front)} points: the lowest top5_error at each step of model_ratio"
    )
    assert sum("<- knee" in line for line in lines) == 1


def test_table_without_activations_or_model_ratio():
    front = Front(
        np.array([[2], [3]]), np.array([[0.1, 0.9], [0.9, 0.1]]), ("kl", "latency_s"), ("a.weight",)
    )
    lines = front.table().splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["1", "0"]
    assert lines[1].split()[3:5] == ["3", "-"]


@pytest.mark.parametrize("seed", range(3))
def test_spread_keeps_its_promise(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 4, (30, 2)).astype(float)
    for count in (2, 3, 7, 29, 30, 99):
        rows = spread(costs, 1, count, also=17)
        assert 17 in rows
        assert len(rows) == len(set(rows)) <= count
        assert costs[rows, 1].tolist() == sorted(costs[rows, 1])
    assert spread(np.zeros((5, 2)), 0, 3, also=4) == [0, 4]


def test_table_needs_two_rows():
    with pytest.raises(ValueError, match="rows must be at least 2, got 1"):
        make(TRADE).table(rows=1)


def test_text_table_aligns():
    assert text_table([("a", "b"), ("long", "12.5"), ("x", "")]) == ["a        b", "long  12.5", "x"]
