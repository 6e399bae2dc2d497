"""Measures of retrieval against plain NumPy, closed forms and pytorch-metric-learning."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.retrieval import retrieval

module = importlib.import_module("fewshotjax.retrieval")  # the function hides it in the package


def brute(queries, labels, references=None, reference_labels=None, k=(1, 5), distance="euclidean"):
    """One query after the other, in float64, the whole order of the references by a stable sort."""
    alone = references is None
    if alone:
        references, reference_labels = queries, labels
    queries, references = queries.astype(np.float64), references.astype(np.float64)
    if distance == "cosine":
        queries, references = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, references))
    first, r_precision, average, recall, left_out = [], [], [], [], 0
    for i, (query, label) in enumerate(zip(queries, labels, strict=True)):
        far = ((references - query) ** 2).sum(1)
        order = [j for j in np.argsort(far, kind="stable") if not (alone and i == j)]
        same = np.array([reference_labels[j] == label for j in order])
        size = same.sum()
        if not size:
            left_out += 1
            continue
        first.append(same[0])
        r_precision.append(same[:size].mean())
        average.append(sum(same[: n + 1].mean() for n in range(size) if same[n]) / size)
        recall.append([same[:n].any() for n in k])
    numbers = [np.mean(first), np.mean(r_precision), np.mean(average), *np.mean(recall, axis=0)]
    return numbers, len(first), left_out


def numbers(result):
    return [
        result.precision_at_1,
        result.r_precision,
        result.mean_average_precision_at_r,
        *result.recall_at_k.values(),
    ]


def problem(seed, *, whole=False):
    """Unequal classes, of which one query class has one member and one has no reference."""
    rng = np.random.default_rng(seed)
    labels, reference_labels = np.r_[rng.integers(0, 4, 40), 9, 7], np.r_[rng.integers(0, 4, 50), 9, 5]
    draw = (lambda *shape: rng.integers(-2, 3, shape)) if whole else (lambda *shape: rng.normal(size=shape))
    queries, references = (
        draw(len(y), 6) + (np.arange(10)[y] / 2)[:, None] * (0 if whole else 1)
        for y in (labels, reference_labels)
    )
    return queries.astype(np.float32), labels, references.astype(np.float32), reference_labels


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("alone", [True, False])
def test_equals_brute_force(alone, distance):
    queries, labels, references, reference_labels = problem(0)
    against = () if alone else (references, reference_labels)
    result = retrieval(queries, labels, *against, k=(1, 3, 10), distance=distance, chunk=16)
    expected, counted, left_out = brute(queries, labels, *against, k=(1, 3, 10), distance=distance)
    np.testing.assert_allclose(numbers(result), expected, rtol=1e-6)
    assert (result.queries, result.left_out, result.distance) == (counted, left_out, distance)
    assert left_out == (2 if alone else 1)
    assert result.recall_at_k[1] == result.precision_at_1


@pytest.mark.parametrize("alone", [True, False])
def test_of_equal_distances_the_lowest_index_comes_first(alone):
    queries, labels, references, reference_labels = problem(1, whole=True)
    against = () if alone else (references, reference_labels)
    expected, *_ = brute(queries, labels, *against)
    np.testing.assert_allclose(numbers(retrieval(queries, labels, *against, chunk=16)), expected, rtol=1e-6)


def test_collapsed_embeddings_are_ranked_by_index_alone():
    labels = np.array([0, 0, 0, 1, 1])
    result = retrieval(np.ones((5, 2), np.float32), labels, k=(1, 4))
    assert result.precision_at_1 == 3 / 5  # all see reference 0, or 1, first
    assert result.recall_at_k[4] == 1.0


def test_closed_forms():
    apart = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0) * 5
    labels = np.repeat(np.array(["ant", "bee", "cat"]), 4)  # names will do
    assert numbers(retrieval(jnp.asarray(apart), labels)) == [1.0] * 5
    # On a line: 0 sees 1 (other), 2 (own), 3 (other), 4 (own): of its R = 2 nearest one is right, at place 2.
    line = np.arange(5, dtype=np.float32)[:, None]
    result = retrieval(line[:1], np.array([0]), line[1:], np.array([1, 0, 1, 0]), k=(1, 2))
    assert numbers(result) == [0.0, 0.5, 0.25, 0.0, 1.0]


def test_a_result_is_written_as_json():
    result = retrieval(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 2]), k=(1, 3), distance="cosine")
    written = json.loads(json.dumps(result.as_dict()))
    assert written["schema"] == "frugaljax.fewshot.retrieval/1"
    assert (written["recall_at_k"], written["left_out"]) == ({"1": 1.0, "3": 1.0}, 2)


def test_a_large_common_part_costs_no_digits():
    queries, labels, references, reference_labels = problem(2)
    expected = numbers(retrieval(queries, labels, references, reference_labels))
    offset = np.float32(3000.0)
    far = retrieval(queries + offset, labels, references + offset, reference_labels)
    np.testing.assert_allclose(numbers(far), expected, atol=0.02)


def test_chunks_change_nothing_and_share_one_compilation(monkeypatch):
    queries, labels, *_ = problem(3)
    traces, search = [], module._search.__wrapped__

    def counting(*args, **kwargs):
        traces.append(1)
        return search(*args, **kwargs)

    whole = retrieval(queries, labels, chunk=1000)
    monkeypatch.setattr(module, "_search", jax.jit(counting, static_argnames="depth"))
    assert retrieval(queries, labels, chunk=7) == whole
    assert len(traces) == 1


def test_zero_vectors_have_no_angle_and_no_nan():
    embeddings = np.array([[0, 0], [0, 0], [1, 0], [1, 0.1]], np.float32)
    result = retrieval(embeddings, np.array([0, 0, 1, 1]), k=(1,), distance="cosine")
    assert numbers(result) == [1.0] * 4  # cosine 0 with all, and the lowest index of these is of the class


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"references": np.ones((3, 2), np.float32)}, "go together"),
        (
            {"references": np.ones((3, 5), np.float32), "reference_labels": np.zeros(3, int)},
            r"5 numbers each.*2",
        ),
        ({"embeddings": np.ones(4, np.float32)}, r"embeddings must be \(N, D\).*\(4,\)"),
        ({"embeddings": np.ones((0, 2), np.float32), "labels": np.zeros(0, int)}, "above 0"),
        ({"labels": np.zeros(3, int)}, r"labels must be \(4,\)"),
        ({"embeddings": np.array([[0, 1], [np.nan, 1], [1, 1], [2, 2]], np.float32)}, "1 of 4 .* row 1"),
        ({"labels": np.arange(4)}, "nothing to find"),
        ({"k": (4,)}, r"1 to the 3 references of a query, got \(4,\)"),
        ({"k": (0, 1)}, "k must be"),
        ({"k": ()}, "k must be"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"distance": "manhattan"}, "one of .*euclidean.*cosine.* got 'manhattan'"),
    ],
)
def test_bad_input_is_refused(change, match, as_users_have_it):
    good = {"embeddings": np.arange(8, dtype=np.float32).reshape(4, 2), "labels": np.array([0, 0, 1, 1])}
    with pytest.raises(ValueError, match=match):
        retrieval(**{**good, "k": (1,), **change})


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_accuracy_calculator(alone, distance, seed):
    pytest.importorskip("pytorch_metric_learning", reason="it comes with the extra bench")
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    metric = CosineSimilarity() if distance == "cosine" else LpDistance(normalize_embeddings=False)
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    queries, labels, references, reference_labels = problem(seed)
    against = () if alone else (references, reference_labels)
    calculator = AccuracyCalculator(
        include=names, k="max_bin_count", knn_func=CustomKNN(metric), kmeans_func=lambda *_: None
    )
    expected = calculator.get_accuracy(*(torch.from_numpy(x) for x in (queries, labels, *against)))
    result = retrieval(queries, labels, *against, distance=distance, chunk=16)
    np.testing.assert_allclose([getattr(result, n) for n in names], [expected[n] for n in names], rtol=1e-6)
