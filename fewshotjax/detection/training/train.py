"""Training of a detector on images with boxes."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxtyping import PRNGKeyArray

from ..detector import Detector
from .config import DetectorTrainConfig
from .history import DetectorChunk, DetectorEpoch
from .loop import Calls, fit
from .sources import Source


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """What a training gives."""

    detector: Detector  # with trained weights, and the images' longer side as its `preprocess.pixels`
    history: tuple[DetectorEpoch, ...]  # of the epochs that were finished
    settings: Mapping[str, Any]  # config, source, digests of the data: JSON values
    finished: bool  # False: the time limit came first


def train_detector(
    key: PRNGKeyArray,
    detector: Detector,
    source: Source,
    config: DetectorTrainConfig | None = None,
    *,
    validation: Callable[[Detector], float] | None = None,
    on_epoch: Callable[[DetectorEpoch], Any] | None = None,
    on_chunk: Callable[[DetectorChunk], Any] | None = None,
    every: int = 100,
    checkpoint: str | os.PathLike[str] | None = None,
    time_limit_s: float | None = None,
) -> TrainedDetector:
    """All parts trained together on the five losses of `detector_loss`, without episodes, as the authors do.

    The weights that are kept are an exponential mean over the steps. A frozen pyramid stays as it is.

    Args:
        key: decides what is drawn, mirrored and sampled; the detector's own weights are its start.
        source: `fixed` or `mosaics`, of the detector's classes in its order.
        validation: detector so far -> error, such as 1 - AP, called after each epoch. It may look at
            validation data; never at those of a report. `config.keep="best"` chooses by it.
        on_epoch, on_chunk: progress, logs, limits (by raising; the checkpoint is written first).
        every: steps of a chunk at most; slow ones are shorter, about two seconds. Results do not depend on
            it.
        checkpoint: file that is written every few seconds and at the end; if it exists, the run goes on
            from there, bit for bit.
        time_limit_s: seconds of this call after which it stops and gives what there is, `finished=False`;
            with a checkpoint, the same call goes on.

    The images of `config.draw_steps` steps are drawn by a thread of their own while the steps before them
    run.

    Raises:
        ValueError: classes, images or channels that do not fit, keep="best" without validation, training
            that diverged, or another run's checkpoint.
    """
    config = config or DetectorTrainConfig()
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if config.keep == "best" and validation is None:
        raise ValueError("keep='best' needs validation: give it, or set keep='last'")
    if source.classes != detector.classes:
        raise ValueError(
            f"source has {_some(source.classes)}, the detector {_some(detector.classes)}: they must be the "
            "same, in one order"
        )
    channels = detector.net.preprocess.channels
    if source.size[2] != channels:
        raise ValueError(f"source has images of {source.size[2]} channels, the detector takes {channels}")

    # The size at which new classes are then looked for by default.
    preprocess = replace(detector.net.preprocess, pixels=max(source.size[:2]))
    net = replace(detector.net, preprocess=preprocess)

    def now(params: Any) -> Detector:
        return replace(detector, net=net, params=params)

    calls = Calls(
        None if validation is None else lambda params: validation(now(params)),
        on_epoch,
        on_chunk,
        every,
        checkpoint,
        time_limit_s,
    )
    told = {
        "pyramid": detector.name,
        "options": dict(detector.options),
        "preprocess": {
            name: list(one) if isinstance(one, tuple) else one for name, one in asdict(preprocess).items()
        },
    }
    found = fit(key, net, detector.params, source, config, calls, told)
    return TrainedDetector(now(found.params), found.history, found.settings, found.finished)


def _some(classes: tuple[str, ...]) -> str:
    named = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    return f"{len(classes)} classes ({named})"
