"""Pictures for calibration and pictures that are reported: never the same ones."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from nemojax.data.labelled import Pictures


class Parts(NamedTuple):
    """What is reported, what sets the ranges of quantizers, and how to say where the latter come from."""

    report: Pictures
    calibration: Pictures | None
    said: str


def report_and_calibration(
    found: Pictures,
    train: Pictures | None,
    *,
    calibration: int,
    report: int | None = None,
    seed: int = 0,
) -> Parts:
    """Calibration pictures from `train`; without it some of `found`, which are then not reported.

    Both are spread evenly over the order, which is by class, so that each class has its share.

    Args:
        calibration: pictures; 0: none are needed.
        report: report so many; None: all that are left.
        seed: decides which ones calibrate.

    Raises:
        ValueError: there are fewer pictures than asked for.
    """
    chosen, said = None, "no quantizers, so no calibration"
    if calibration and train is not None:
        chosen = train.take(_places(len(train), calibration, seed, "calibration"))
        said = f"calibrated on {calibration} images of the training part"
    elif calibration:
        if calibration >= len(found):
            raise ValueError(
                f"calibration takes {calibration} of {len(found)} images and leaves none to report: lower it"
            )
        held = _places(len(found), calibration, seed, "calibration")
        chosen = found.take(held)
        found = found.take(np.setdiff1d(np.arange(len(found)), held))
        said = f"calibrated on {calibration} of the images, which are left out of the report"
    if report is not None:
        found = found.take(_places(len(found), report, None, "report"))
    return Parts(found, chosen, said)


def _places(total: int, count: int, seed: int | None, what: str) -> Int[np.ndarray, " count"]:
    """`count` of `total` places at equal distances; with a seed, from a random start."""
    if not 1 <= count <= total:
        raise ValueError(f"{what} must be 1-{total} images, which there are, got {count}")
    start = 0.0 if seed is None else np.random.default_rng(seed).random()
    return np.floor((np.arange(count) + start) * total / count).astype(np.int64)
