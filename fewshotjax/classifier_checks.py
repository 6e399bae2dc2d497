"""What a classifier can be made of: refused or warned of before anything is computed."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .data import LabelledImages, duplicates

NAMED = 5  # of what a message lists


def check_classes(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Raises ValueError: labels outside the classes, fewer than two classes, or one without examples."""
    if len(labels) and int(labels.max()) >= len(classes):
        raise ValueError(f"labels reach {labels.max()}, but there are {len(classes)} classes: name more")
    if len(classes) < 2:
        raise ValueError(
            f"support has {len(classes)} class{'' if len(classes) == 1 else 'es'}: give two at least, such "
            "as one of other things"
        )
    empty = [
        name
        for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True)
        if not count
    ]
    if empty:
        more = ", ..." if len(empty) > NAMED else ""
        raise ValueError(
            f"support has no examples of {', '.join(empty[:NAMED])}{more}: add one each, or leave these "
            "out (`only` does)"
        )


def checked_features(features: Any, files: Sequence[str] = ()) -> Float[np.ndarray, "N F"]:
    """As float32.

    Raises:
        ValueError: not (N, F) numbers, or not all finite; the first such row is named.
    """
    found = np.asarray(features)
    if found.ndim != 2 or not found.shape[1] or found.dtype.kind not in "fiu":
        raise ValueError(f"features are {found.dtype} of shape {found.shape}: give numbers (N, F)")
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        where = files[wrong[0]] if wrong[0] < len(files) else f"row {wrong[0]}"
        raise ValueError(f"features of {where} hold NaN or infinite values: look at what made them")
    return found


def warn_of_copies(support: LabelledImages) -> None:
    """Warns (UserWarning) of byte-identical images, for the caller of the function that calls this."""
    pairs = duplicates(support)
    if len(pairs):
        named = [f"{support.where(i)} = {support.where(j)}" for i, j in pairs[:NAMED].tolist()]
        more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
        warnings.warn(
            f"{len(pairs)} images are in the support twice, which makes it look surer than it is: "
            f"{', '.join(named)}{more}",
            UserWarning,
            stacklevel=3,
        )
