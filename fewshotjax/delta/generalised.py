"""Generalised few-shot recognition: classes seen in training and classes seen once, told apart together.

One linear classifier of all classes learns real examples of the seen classes, and seeds with synthesized
samples of the others. It is tested on other examples of both; a classifier that forgets either has a low
harmonic mean. Without samples the few seeds are drowned by the seen classes: that is the baseline.

A classifier that prefers one side says little by its harmonic mean: a bias added to the scores of the unseen
classes would move it. The area under the curve of seen over unseen accuracy, as that bias goes from minus to
plus infinity, chooses none (Chao et al. 2016, "An empirical study and analysis of generalized zero-shot
learning for object recognition in the wild").
"""

from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..files import digest_of
from ..results import Mean, mean_of
from .classifier import ClassifierConfig, fit_linear, scores
from .episode_fit import LIMIT_BYTES, EpisodeFit, episode_bytes, synthesized
from .rows import row_hashes
from .samplers import delta_sampler

SCHEMA = "frugaljax.fewshot.generalised/1"


@dataclass(frozen=True, eq=False)
class GeneralisedResult:
    """Of R draws of the seeds; C classes, the seen ones first."""

    right: np.ndarray  # (R, C) share of each class's queries that were right, among all C classes
    areas: np.ndarray  # (R,) under seen over unseen accuracy, over all biases of the unseen classes
    classes: tuple[str, ...]
    seen_classes: int  # how many of them were seen in training
    settings: dict[str, Any]

    @cached_property
    def seen_accuracies(self) -> np.ndarray:
        """(R,), mean over the seen classes."""
        return self.right[:, : self.seen_classes].mean(axis=1)

    @cached_property
    def unseen_accuracies(self) -> np.ndarray:
        """(R,), mean over the unseen classes."""
        return self.right[:, self.seen_classes :].mean(axis=1)

    @cached_property
    def harmonic_means(self) -> np.ndarray:
        """(R,), 2 s u / (s + u); 0 where both are."""
        total = self.seen_accuracies + self.unseen_accuracies
        return 2 * self.seen_accuracies * self.unseen_accuracies / np.maximum(total, 1e-12)

    @property
    def seen(self) -> Mean:
        """Over draws."""
        return mean_of(self.seen_accuracies)

    @property
    def unseen(self) -> Mean:
        """Over draws."""
        return mean_of(self.unseen_accuracies)

    @property
    def harmonic(self) -> Mean:
        """Over draws."""
        return mean_of(self.harmonic_means)

    @property
    def area(self) -> Mean:
        """Over draws; 1 where every query is right and any bias between the sides will do."""
        return mean_of(self.areas)

    def per_class(self) -> dict[str, float]:
        """Share of each class's queries that were right, over all draws."""
        return dict(zip(self.classes, self.right.mean(axis=0).tolist(), strict=True))

    def table(self) -> str:
        """Seen, unseen, harmonic mean and the area over all biases."""
        lines = [f"{name:13}  {getattr(self, name)}" for name in ("seen", "unseen")]
        return "\n".join([*lines, f"harmonic mean  {self.harmonic}", f"area           {self.area}"])

    def as_dict(self) -> dict[str, Any]:
        """Settings and figures; None for an interval of a single draw."""
        figures: dict[str, Any] = {"schema": SCHEMA, "settings": self.settings}
        for name in ("seen", "unseen", "harmonic", "area"):
            mean, half = getattr(self, name)
            figures |= {name: mean, f"{name}_half": half if np.isfinite(half) else None}
        return {**figures, "per_class": self.per_class()}


def generalised(
    key: PRNGKeyArray,
    delta: Any,
    seen: tuple[np.ndarray, np.ndarray],
    seen_queries: tuple[np.ndarray, np.ndarray],
    unseen: tuple[np.ndarray, np.ndarray],
    *,
    shots: int = 1,
    draws: int = 10,
    samples: int = 1024,
    codes: str = "pairs",
    classifier: ClassifierConfig | None = None,
    names: tuple[str, ...] | None = None,
) -> GeneralisedResult:
    """Seen and unseen classes together.

    Args:
        key: decides the seeds, what is synthesized and the order of training.
        delta: a `DeltaEncoder`, or any sampler of `fewshotjax.delta.samplers`, for the controls.
        seen: features (M, D) and labels (M,) to learn the seen classes from.
        seen_queries: others of the same classes; none may be a copy of one of `seen`.
        unseen: of other classes; each draw takes `shots` of each as seeds, the rest are queries.
        samples: synthesized of each unseen class, shared by its seeds; 0: the baseline.
        codes: as of `delta_encoder`.
        classifier: None: the authors', by Adam.
        names: of the seen classes and then of the unseen, each in the order of their labels.

    Raises:
        ValueError: classes in both, queries that `seen` has or of a class that it lacks, an unseen class
            without a query left, NaN, more than 2 GiB of examples, a classifier that gives NaN.
    """
    sampler = delta_sampler(delta, codes) if hasattr(delta, "params") else delta
    fit = EpisodeFit(samples, classifier=classifier or ClassifierConfig())
    (x, y), (x_test, y_test), (x_new, y_new) = map(_checked, (seen, seen_queries, unseen))
    old, new = np.unique(y), np.unique(y_new)
    _check(old, new, y_test, y_new, shots, draws)
    _check_apart(x, x_test)
    ways, count = len(old) + len(new), len(new) * shots
    # Seen examples scaled, and both behind one another: see `episode_bytes`.
    held = 8 * x.shape[1] * len(x) + episode_bytes(sampler, fit, len(new), shots, x.shape[1])
    if held > LIMIT_BYTES:
        raise ValueError(
            f"{len(x)} seen examples and {samples} samples of {len(new)} classes take more than "
            f"{LIMIT_BYTES / 2**30:.0f} GiB: give fewer examples of each seen class, or lower samples"
        )
    if names is not None and len(names) != ways:
        raise ValueError(f"names are {len(names)}, classes {ways}: give the seen and then the unseen ones")
    y_real, y_test = (np.searchsorted(old, part).astype(np.int32) for part in (y, y_test))
    found, areas, of_seed = [], [], np.repeat(np.arange(len(old), ways, dtype=np.int32), shots)
    of_new = (len(old) + np.searchsorted(new, y_new)).astype(np.int32)
    for k_draw in jax.random.split(key, draws):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(k_draw, 0))))
        rows = np.concatenate([rng.permutation(np.flatnonzero(y_new == c))[:shots] for c in new])
        rest = np.setdiff1d(np.arange(len(y_new)), rows)
        queries = np.concatenate([x_test, x_new[rest]])
        arrays = map(jnp.asarray, (x, y_real, x_new[rows], of_seed, queries))
        k_fit = jax.random.fold_in(k_draw, 1)
        true = np.concatenate([y_test, of_new[rest]])
        guesses = Guesses(*map(np.asarray, _guessed(k_fit, sampler, *arrays, fit, ways, len(old), shots)))
        if not np.isfinite(guesses.lead).all():
            raise ValueError(
                f"the classifier {fit.classifier.kind} gave NaN: scale the features, raise regularization "
                "(ridge, lbfgs) or lower learning_rate (adam)"
            )
        found.append(guesses.right(true, ways))
        areas.append(guesses.area(true, ways, len(old)))
    told = {
        "shots": shots,
        "draws": draws,
        "samples": samples,
        "seeds": count,
        "seen_examples": len(x),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "classifier": asdict(fit.classifier),
        "sampler": type(sampler).__name__,
        "codes": getattr(sampler, "codes", None),
        "digest": digest_of(jax.tree.leaves(jax.device_get(sampler))),  # of the sampler's arrays
    }
    default = (*(f"seen {c}" for c in old), *(f"unseen {c}" for c in new))
    return GeneralisedResult(np.stack(found), np.array(areas), tuple(names or default), len(old), told)


class Guesses(NamedTuple):
    """Of Q queries: the best class of each side, and by how much the unseen one is ahead."""

    seen: np.ndarray  # (Q,)
    unseen: np.ndarray  # (Q,)
    lead: np.ndarray  # (Q,) score of `unseen` less that of `seen`

    def right(self, true: np.ndarray, ways: int) -> np.ndarray:
        """(C,), share of each class's queries that are right, without a bias; ties go to the seen class."""
        guessed = np.where(self.lead > 0, self.unseen, self.seen)
        return np.bincount(true, guessed == true, ways) / np.bincount(true, minlength=ways)

    def area(self, true: np.ndarray, ways: int, seen: int) -> float:
        """Under seen over unseen accuracy, each the mean over its classes; `seen` classes come first.

        A query of a seen class is right as long as the bias is below minus its lead, one of an unseen class
        when it is above: the area is the weight of the pairs in which the unseen one leads by more (half of
        those that tie).
        """
        of_seen = true < seen
        classes = np.where(of_seen, seen, ways - seen)
        correct = np.where(of_seen, self.seen, self.unseen) == true
        weights = correct / (np.bincount(true, minlength=ways)[true] * classes)
        order = np.argsort(self.lead[of_seen], kind="stable")
        leads, below = self.lead[of_seen][order], np.append(0.0, np.cumsum(weights[of_seen][order]))
        first, last = (np.searchsorted(leads, self.lead[~of_seen], side) for side in ("left", "right"))
        return float(weights[~of_seen] @ (below[first] + below[last]) / 2)


@partial(jax.jit, static_argnums=(7, 8, 9, 10))
def _guessed(
    key: PRNGKeyArray,
    sampler: Any,
    x: Float[Array, "M D"],
    y: Int[Array, " M"],
    seeds: Float[Array, "S D"],
    of_seed: Int[Array, " S"],
    queries: Float[Array, "Q D"],
    fit: EpisodeFit,
    ways: int,
    seen: int,
    shots: int,
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, " Q"]]:
    k_samples, k_fit = jax.random.split(key)
    x, seeds, queries = sampler.scale(x), sampler.scale(seeds), sampler.scale(queries)
    parts, labels = [x, seeds], [y, of_seed]
    if fit.samples:
        labels_here = np.repeat(np.arange(ways - seen, dtype=np.int32), shots)
        made = synthesized(k_samples, sampler, fit, seeds, labels_here, ways - seen)
        parts.append(made)
        labels.append(seen + jnp.repeat(jnp.arange(ways - seen, dtype=jnp.int32), len(made) // (ways - seen)))
    every = fit_linear(
        k_fit, jnp.concatenate(parts), jnp.concatenate(labels), None, fit.classifier, ways=ways
    )
    found = scores(every, queries)
    best = [part.max(axis=1) for part in (found[:, :seen], found[:, seen:])]
    return found[:, :seen].argmax(axis=1), seen + found[:, seen:].argmax(axis=1), best[1] - best[0]


def _checked(part: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(part[0], np.float32), np.asarray(part[1])
    if x.ndim != 2 or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"features must be (N, D) with N whole labels, got {x.shape} and {y.dtype} {y.shape}"
        )
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise ValueError(f"features of example {row} are not finite: leave it out")
    return x, y


def _check_apart(seen: np.ndarray, queries: np.ndarray) -> None:
    known = np.isin(row_hashes(queries), row_hashes(seen))
    if known.any():
        raise ValueError(
            f"{known.sum()} of {len(known)} seen_queries are in seen, row {int(known.argmax())} the first: "
            "test on examples that the classifier did not learn"
        )


def _check(
    old: np.ndarray, new: np.ndarray, y_test: np.ndarray, y_new: np.ndarray, shots: int, draws: int
) -> None:
    if shots < 1 or draws < 1:
        raise ValueError(f"shots and draws must be at least 1, got {shots} and {draws}")
    both = np.intersect1d(old, new)
    if len(both):
        raise ValueError(f"label {both[0]} is of a seen and of an unseen class: number them apart")
    other = np.setxor1d(old, y_test)
    if len(other):
        raise ValueError(f"label {other[0]} is in one of seen and seen_queries alone: give the same classes")
    counts = np.array([np.count_nonzero(y_new == c) for c in new])
    if not len(new) or counts.min() <= shots:
        few = "no class" if not len(new) else f"class {new[counts.argmin()]} {counts.min()} examples"
        raise ValueError(f"unseen has {few}: {shots} seeds and a query at least are needed")
