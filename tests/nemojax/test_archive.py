"""The archive against brute force over everything it was ever shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

from nemojax.archive import first_copies, init_archive, update_archive

inf = np.inf
update = jax.jit(update_archive)


def batches(seed, generations=6, n=20, quantizers=3, m=3, values=6):
    """Bit-vectors from a small space, so that they repeat; costs are a function of the bits, with ties."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, values, (3, 3, 3, m)).astype(np.float32)
    for _ in range(generations):
        bits = rng.integers(2, 5, (n, quantizers)).astype(np.int32)
        costs = table[tuple((bits - 2).T)]
        failed = rng.random(n) < 0.1
        costs[failed] = [inf, np.nan, 0][:m]
        yield bits, costs


def brute_front(rows):
    """{bits: costs} of the non-dominated among all successful rows."""
    seen = {}
    for bits, costs in rows:
        for b, c in zip(bits, costs, strict=True):
            if np.isfinite(c).all():
                seen.setdefault(tuple(b), tuple(c))

    def dominated(c):
        return any(all(x <= y for x, y in zip(d, c, strict=True)) and d != c for d in seen.values())

    return {b: c for b, c in seen.items() if not dominated(c)}


def members(archive):
    valid = np.asarray(archive.valid)
    bits, costs = np.asarray(archive.bits)[valid], np.asarray(archive.costs)[valid]
    found = {tuple(b): tuple(c) for b, c in zip(bits, costs, strict=True)}
    assert len(found) == valid.sum(), "a bit-vector is in the archive twice"
    return found


@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force_when_there_is_room(seed):
    archive, shown = init_archive(27, 3, 3), []
    for bits, costs in batches(seed):
        shown.append((bits, costs))
        archive = update(archive, bits, costs)
        assert members(archive) == brute_front(shown)
        valid = np.asarray(archive.valid)
        assert (np.diff(valid.astype(int)) <= 0).all()
        assert np.isinf(archive.costs[~valid]).all()
        assert (np.asarray(archive.bits)[~valid] == 0).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [3, 5])
def test_truncation_keeps_the_properties(seed, capacity):
    archive, shown = init_archive(capacity, 3, 3), []
    for bits, costs in batches(seed, values=30):
        shown.append((bits, costs))
        archive = update(archive, bits, costs)
        found = members(archive)
        assert brute_front([(list(found), list(found.values()))]) == found  # no dominated pair
        everything = np.concatenate([c[np.isfinite(c).all(1)] for _, c in shown])
        np.testing.assert_array_equal(np.min(list(found.values()), axis=0), everything.min(axis=0))


def test_truncation_is_by_crowding_after_the_best():
    """A front of 30 points cut to 12: the best of each objective, then the largest distances."""
    rng = np.random.default_rng(0)
    points = np.abs(rng.normal(size=(30, 3)))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    bits = np.stack([np.arange(30), np.zeros(30), np.zeros(30)], 1).astype(np.int32)
    archive = update(init_archive(12, 3, 3), bits, points)
    distance = get_crowding_function("cd").do(points)
    best = list(dict.fromkeys(points.argmin(axis=0)))
    rest = [i for i in np.argsort(-distance, kind="stable") if i not in best]
    assert set(np.asarray(archive.bits)[:, 0]) == set((best + rest)[:12])


def test_the_first_copy_stays_even_if_a_later_one_is_cheaper():
    bits = np.array([[2, 2], [3, 3]], np.int32)
    archive = update(init_archive(4, 2, 2), bits, np.array([[1, 2], [2, 1]], np.float32))
    again = update(archive, bits[:1], np.array([[0, 0]], np.float32))
    assert members(again) == {(2, 2): (1.0, 2.0), (3, 3): (2.0, 1.0)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("high", [4, 17])
def test_first_copies_matches_brute_force(seed, high):
    rng = np.random.default_rng(seed)
    bits = rng.integers(2, high, (60, 2)).astype(np.int32)
    valid = rng.random(60) < 0.8
    seen: set = set()
    expected = []
    for row, ok in zip(map(tuple, bits), valid, strict=True):
        expected.append(bool(ok) and row not in seen)
        seen |= {row} if ok else set()
    np.testing.assert_array_equal(jax.jit(first_copies)(bits, valid), expected)


def copies_of(rows, n, seed):
    """n rows drawn from a few, so that most repeat, and which of them are valid."""
    rng = np.random.default_rng(seed)
    return rows[rng.integers(0, len(rows), n)], rng.random(n) < 0.7


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.float32])
def test_first_copies_of_thousands_of_rows(dtype):
    rows = np.random.default_rng(0).integers(-8, 17, (500, 40)).astype(dtype)
    rows[1::2] = rows[::2]
    rows[1::2, 20] += 1  # half of the rows differ from the one before in one gene only
    if dtype is np.float32:
        rows[::4] *= np.float32(1) / 3
    rows, valid = copies_of(rows, 3000, 1)
    index = np.flatnonzero(valid)
    expected = np.zeros(3000, bool)
    expected[index[np.unique(rows[valid], axis=0, return_index=True)[1]]] = True
    np.testing.assert_array_equal(jax.jit(first_copies)(rows, valid), expected)


def test_first_copies_never_confuses_rows_of_equal_hashes(monkeypatch):
    """With hashes that say nothing all different rows still stand, and neighbours are still compared."""
    monkeypatch.setattr("nemojax.archive._hashes", lambda rows: jnp.zeros((5, 2), jnp.uint32))
    bits = jnp.array([[2, 3], [3, 2], [3, 2], [2, 4], [4, 2]])
    np.testing.assert_array_equal(
        first_copies(bits, jnp.array([True, True, True, True, False])), [True, True, False, True, False]
    )


def test_first_copies_tells_long_vectors_apart_by_one_bit():
    bits = np.full((3, 4000), 16, np.int32)
    bits[1, 3999] = 15
    np.testing.assert_array_equal(first_copies(jnp.asarray(bits), jnp.ones(3, bool)), [True, True, False])


def test_vmap_equals_a_loop_and_traces_once():
    traces = 0

    @jax.jit
    def step(archive, bits, costs):
        nonlocal traces
        traces += 1
        return update_archive(archive, bits, costs)

    batched = jax.jit(jax.vmap(update_archive))
    runs = [list(batches(seed)) for seed in range(3)]
    alone = [init_archive(9, 3, 3) for _ in runs]
    together = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    for generation in zip(*runs, strict=True):
        alone = [step(a, *batch) for a, batch in zip(alone, generation, strict=True)]
        together = batched(together, *map(np.stack, zip(*generation, strict=True)))
    assert traces == 1
    for one, row in zip(alone, range(3), strict=True):
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(together), strict=True):
            np.testing.assert_array_equal(x, y[row])


def test_capacity_error_names_the_value():
    with pytest.raises(ValueError, match="at least the number of objectives 3, got 2"):
        init_archive(2, 5, 3)
