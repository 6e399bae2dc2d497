"""How well embeddings find their own class: the standard measures of retrieval.

Precision@1, R-precision and MAP@R as in "A Metric Learning Reality Check" (Musgrave et al. 2020), equal to
AccuracyCalculator of that paper's library, pytorch-metric-learning 2.9; Recall@k as metric learning has used
the word since Jégou et al. 2011.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

SCHEMA = "frugaljax.fewshot.retrieval/1"
Distance = Literal["euclidean", "cosine"]
Embeddings = Float[Array, "..."] | Float[np.ndarray, "..."]
Labels = Shaped[Array, "..."] | Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class RetrievalResult:
    """Means over the counted queries; R is the number of references of a query's class, itself left out."""

    precision_at_1: float  # share of queries whose nearest reference is of their class
    r_precision: float  # share of the query's class among its R nearest references
    # 1/R Σ_{i ≤ R} P(i) [the i-th nearest is of the class], P(i) its share among the i nearest
    mean_average_precision_at_r: float
    recall_at_k: dict[int, float]  # k -> share of queries with one of their class among the k nearest
    queries: int  # counted
    left_out: int  # queries without any reference of their class, which can find nothing
    distance: str

    def as_dict(self) -> dict[str, Any]:
        """All fields, for `json.dumps`."""
        recall = {str(k): value for k, value in self.recall_at_k.items()}
        return {"schema": SCHEMA, **asdict(self), "recall_at_k": recall}


def retrieval(
    embeddings: Embeddings,
    labels: Labels,
    references: Embeddings | None = None,
    reference_labels: Labels | None = None,
    *,
    k: tuple[int, ...] = (1, 5),
    distance: Distance = "euclidean",
    chunk: int = 256,
) -> RetrievalResult:
    """Precision@1, R-precision, MAP@R and Recall@k of queries among references.

    Queries whose class has no reference (but themselves) are left out of every measure and counted in
    `left_out`, as AccuracyCalculator does. Recall@k is not the recall of information retrieval (the share of
    the R that is found), and Recall@1 equals Precision@1; papers that have no lone queries divide by all.

    References at exactly equal distance come in their order, the lowest index first. Distances are float32
    and taken through inner products: those equal up to rounding may come in either order. (AccuracyCalculator
    leaves ties to its search.)

    Args:
        embeddings: (N, D) of the queries.
        labels: (N,) their classes: integers, or names in a NumPy array.
        references: (M, D) to search in; default: the queries themselves, each without itself.
        reference_labels: (M,) of these.
        k: of Recall@k.
        distance: "cosine" ranks by the angle; an embedding of zeros has cosine 0 with all.
        chunk: queries that are searched at once: memory holds chunk * M distances. It changes no result
            beyond rounding.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a `k` above the number of references,
            no query with a reference of its class.
    """
    alone = references is None
    if alone != (reference_labels is None):
        raise ValueError("references and reference_labels go together: give both or neither")
    queries, query_labels = _checked("embeddings", embeddings, "labels", labels)
    others, other_labels = queries, query_labels
    if references is not None and reference_labels is not None:
        others, other_labels = _checked("references", references, "reference_labels", reference_labels)
        if others.shape[1] != queries.shape[1]:
            raise ValueError(
                f"references have {others.shape[1]} numbers each and embeddings {queries.shape[1]}: "
                "both must come from the same embedding"
            )
    if distance not in get_args(Distance):
        raise ValueError(f"distance must be one of {get_args(Distance)}, got {distance!r}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    candidates = len(others) - alone
    if not k or min(k) < 1 or max(k) > candidates:
        raise ValueError(f"k must be numbers from 1 to the {candidates} references of a query, got {k}")

    _, classes = np.unique(np.concatenate([query_labels, other_labels]), return_inverse=True)
    query_class, other_class = np.split(classes.astype(np.int32), [len(queries)])
    if alone:
        other_class = query_class
    relevant = (np.bincount(other_class, minlength=classes.max() + 1)[query_class] - alone).astype(np.int32)
    rows = np.flatnonzero(relevant)
    if not len(rows):
        raise ValueError(
            "no query has a reference of its class (but itself), so there is nothing to find: "
            "give references of the same classes, or at least two embeddings of a class"
        )
    if distance == "euclidean":
        # Only differences count, and these keep more digits near the origin; whole numbers stay whole.
        queries, others = queries - others[:1], others - others[:1]
        lengths = np.sum(others * others, axis=1)
    else:
        queries, others = _unit(queries), _unit(others)
        lengths = np.zeros(len(others), np.float32)
    places = jnp.asarray(others), jnp.asarray(lengths), jnp.asarray(other_class)
    found = []
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        # The last one repeats itself, so that one shape compiles.
        full = np.resize(part, min(chunk, len(rows)))
        own = full.astype(np.int32) if alone else np.full(len(full), len(others), np.int32)
        one = _search(
            *(jnp.asarray(array) for array in (queries[full], query_class[full], relevant[full], own)),
            *places,
            depth=int(max(relevant.max(), *k)),
        )
        found.append([np.asarray(column)[: len(part)].astype(np.float64) for column in one])
    r_precision, average_precision, nearer = (np.concatenate(column) for column in zip(*found, strict=True))
    return RetrievalResult(
        precision_at_1=float(np.mean(nearer == 0)),
        r_precision=float(np.mean(r_precision)),
        mean_average_precision_at_r=float(np.mean(average_precision)),
        recall_at_k={n: float(np.mean(nearer < n)) for n in k},
        queries=len(rows),
        left_out=len(relevant) - len(rows),
        distance=distance,
    )


@partial(jax.jit, static_argnames="depth")
def _search(
    queries: Float[Array, "q D"],
    classes: Int[Array, " q"],
    relevant: Int[Array, " q"],
    own: Int[Array, " q"],
    references: Float[Array, "M D"],
    lengths: Float[Array, " M"],
    reference_classes: Int[Array, " M"],
    *,
    depth: int,
) -> tuple[Float[Array, " q"], Float[Array, " q"], Int[Array, " q"]]:
    """R-precision, average precision at R, and how many references come before the first of the class.

    Args:
        relevant: R of each query.
        own: the reference that is the query itself, M where there is none.
        lengths: squared, of the references; zeros rank by the inner product.
        depth: references that are looked at, of R and k the largest.
    """
    # -|q - r|² but for |q|², which ranks nothing. At full precision: accelerators would round to 10 bits.
    nearness = 2.0 * jnp.matmul(queries, references.T, precision="highest") - lengths[None]
    nearness = jnp.where(nearness == 0, 0.0, nearness)  # top_k puts 0 before -0
    nearness = nearness.at[jnp.arange(len(queries)), own].set(-jnp.inf, mode="drop")
    nearest = jax.lax.top_k(nearness, depth)[1]  # of equal ones the lowest index first
    same = reference_classes[nearest] == classes[:, None]
    position = jnp.arange(1, depth + 1)[None]
    hits = same & (position <= relevant[:, None])
    precision = jnp.cumsum(hits, axis=1).astype(jnp.float32) / position.astype(jnp.float32)
    size = relevant.astype(jnp.float32)
    return (
        jnp.sum(hits, axis=1).astype(jnp.float32) / size,
        jnp.sum(jnp.where(hits, precision, 0.0), axis=1) / size,
        jnp.where(jnp.any(same, axis=1), jnp.argmax(same, axis=1), depth),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, np.float32(1))


def _checked(
    name: str, embeddings: Embeddings, label_name: str, labels: Labels
) -> tuple[np.ndarray, np.ndarray]:
    found, classes = np.asarray(embeddings, np.float32), np.asarray(labels)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"{name} must be (N, D) with N and D above 0, got shape {found.shape}")
    if classes.shape != found.shape[:1]:
        raise ValueError(f"{label_name} must be ({len(found)},), one for each of {name}, got {classes.shape}")
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        raise ValueError(f"{name} must be finite: {len(wrong)} of {len(found)} are not, first row {wrong[0]}")
    return found, classes
