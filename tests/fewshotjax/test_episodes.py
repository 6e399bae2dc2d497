"""Drawing episodes: invariants, uniformity, reproducibility, files."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import EpisodeConfig, class_table, draw, draw_many, load_episodes, save_episodes
from fewshotjax.episodes import _below, distinct, left_out

LABELS = np.repeat([3, 5, 8, 9, 12], [9, 12, 6, 20, 2]).astype(np.int32)  # the last class is too small


def drawn(config, count=200, seed=0):
    table = class_table(LABELS, config)
    return table, jax.tree.map(np.asarray, draw_many(jax.random.key(seed), table, config, count))


@pytest.mark.parametrize("shots", [2, (1, 3)])
def test_invariants(shots):
    config = EpisodeConfig(ways=3, shots=shots, queries=3)
    table, found = drawn(config)
    assert left_out(LABELS, table) == [12]
    labels = np.asarray(table.classes)
    for classes, support, query in zip(found.classes, found.support, found.query, strict=True):
        assert len(set(classes.tolist())) == 3
        for way in range(3):
            rows = np.r_[support[way], query[way]]
            assert len(set(rows.tolist())) == len(rows)  # support and queries are disjoint
            assert (LABELS[rows] == labels[classes[way]]).all()
    count = found.shown.sum(axis=2)
    assert set(count.reshape(-1).tolist()) == ({2} if shots == 2 else {1, 2, 3})
    assert (np.diff(found.shown.astype(int), axis=2) <= 0).all()


def test_merged_classes_have_equal_shots_of_each_part():
    config = EpisodeConfig(ways=2, shots=2, queries=3, parts=2)
    table, found = drawn(config, 50)
    assert found.support.shape == (50, 2, 4)
    assert found.query.shape == (50, 2, 6)
    for classes, support, query in zip(found.classes, found.support, found.query, strict=True):
        parts = []
        for way in range(2):
            labels, times = np.unique(LABELS[support[way]], return_counts=True)
            np.testing.assert_array_equal(times, [2, 2])
            np.testing.assert_array_equal(np.unique(LABELS[query[way]], return_counts=True), [labels, [3, 3]])
            assert np.asarray(table.classes)[classes[way]] == LABELS[support[way, 0]]
            parts += labels.tolist()
        assert len(set(parts)) == 4
    with pytest.raises(ValueError, match="ways is 3 of 2 parts, but 4 of 5 classes"):
        class_table(LABELS, EpisodeConfig(3, 2, 3, 2))


def test_every_class_and_example_is_drawn_equally_often():
    config = EpisodeConfig(ways=2, shots=1, queries=1)
    table, found = drawn(config, 20_000)
    times = np.bincount(found.classes.reshape(-1), minlength=len(table.counts))
    np.testing.assert_allclose(times / times.sum(), 1 / len(table.counts), rtol=0.04)
    for part in (found.support, found.query):
        rows = np.bincount(part.reshape(-1), minlength=len(LABELS))[:9]
        np.testing.assert_allclose(rows / rows.sum(), 1 / 9, rtol=0.1)


def test_an_episode_does_not_depend_on_how_many_are_drawn():
    config = EpisodeConfig(ways=3, shots=1, queries=2)
    table, many = drawn(config, 50)
    _, few = drawn(config, 7)
    for a, b in zip(*map(jax.tree.leaves, (many, few)), strict=True):
        np.testing.assert_array_equal(a[:7], b)
    one = draw(jax.random.fold_in(jax.random.key(0), 5), table, config)
    for a, b in zip(*map(jax.tree.leaves, (many, one)), strict=True):
        np.testing.assert_array_equal(a[5], b)
    _, other = drawn(config, 7, seed=1)
    assert (other.support != few.support).any()


def test_all_sequences_are_equally_likely():
    """Of 4 numbers, 3 in a row: each of 24 sequences, as itertools has them."""
    bits = jax.random.bits(jax.random.key(0), (48_000, 3), jnp.uint32)
    found = np.asarray(jax.vmap(lambda b: distinct(b, jnp.int32(4)))(bits))
    times = {p: int((found == p).all(axis=1).sum()) for p in itertools.permutations(range(4), 3)}
    assert sum(times.values()) == 48_000
    assert max(abs(count - 2_000) for count in times.values()) < 5 * 2_000**0.5


def test_the_whole_of_a_class_is_a_permutation():
    bits = jax.random.bits(jax.random.key(0), (50, 6), jnp.uint32)
    found = np.asarray(jax.vmap(lambda b: distinct(b, jnp.int32(6)))(bits))
    assert (np.sort(found, axis=1) == np.arange(6)).all()


def test_upper_halves_of_products_are_exact():
    rng = np.random.default_rng(0)
    bits = np.r_[rng.integers(0, 2**32, 1_000, dtype=np.uint64), 0, 2**32 - 1].astype(np.uint32)
    n = np.r_[rng.integers(1, 2**31, 1_000), 2**31 - 1, 2**31 - 1].astype(np.int32)
    expected = [int(b) * int(m) >> 32 for b, m in zip(bits, n, strict=True)]
    np.testing.assert_array_equal(_below(jnp.asarray(bits), jnp.asarray(n)), expected)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 1}, "ways must be at least 2, got 1"),
        ({"ways": 5.0}, "ways must be a whole number, got 5.0"),
        ({"shots": [1, 5]}, r"shots must be a whole number or a tuple \(least, most\)"),
        ({"shots": (1, 2, 3)}, "shots must be a whole number or a tuple"),
        ({"shots": 0}, "shots must be at least 1, or"),
        ({"shots": (3, 2)}, r"shots must be at least 1, or \(least, most\), got \(3, 2\)"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"parts": 0}, "parts must be at least 1, got 0"),
    ],
)
def test_configs_that_make_no_episode(options, message):
    with pytest.raises(ValueError, match=message):
        EpisodeConfig(**options)


def test_too_few_classes_or_examples_are_named():
    with pytest.raises(
        ValueError, match=r"ways is 5, but 4 of 5 classes have 5 examples \(2 shots and 3 queries; "
    ):
        class_table(LABELS, EpisodeConfig(5, 2, 3))
    with pytest.raises(ValueError, match="ways is 2, but 1 of 2 classes"):
        class_table(LABELS, EpisodeConfig(2, 2, 3), classes=[3, 12])
    with pytest.raises(ValueError, match="labels must be class indices from 0, got -1"):
        class_table(np.array([-1, 0]), EpisodeConfig(2, 1, 1))


# Files


def test_a_list_of_episodes_survives_its_file(tmp_path):
    _, found = drawn(EpisodeConfig(3, (1, 2), 2), 9)
    save_episodes(tmp_path / "list.json", found)
    for a, b in zip(*map(jax.tree.leaves, (found, load_episodes(tmp_path / "list.json"))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_that_are_no_episodes_are_refused(tmp_path):
    path = tmp_path / "list.json"
    _, found = drawn(EpisodeConfig(2, 1, 2), 3)
    save_episodes(path, found)
    good = json.loads(path.read_text())
    both = {**good, "query": [[[row[0], row[0] + 1] for row in e] for e in good["support"]]}
    for content, message in (
        ("no json", "is no list of episodes"),
        ("[]", "is no list of episodes"),
        (json.dumps({**good, "schema": "other"}), "has schema 'other'"),
        (json.dumps({**good, "query": [[[]]] * 3}), "is no list of episodes"),
        (json.dumps({**good, "shown": good["query"]}), "its arrays do not fit each other"),
        (json.dumps({**good, "support": [[["a"]]]}), "is no list of episodes"),
        (json.dumps(both), "episode 0 has an example twice"),
        (json.dumps({**good, "support": [[[1.5], [2.0]]] * 3}), "is no list of episodes"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_episodes(path)
