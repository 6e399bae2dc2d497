"""Pictures of what was imagined: the real images nearest to synthesized features, and accuracy by samples.

matplotlib, which takes a second to import, comes when a picture is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ..results import Mean
from .checks import Nearest, nearest_real

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")


def plot_imagined(
    seed_images: np.ndarray,
    synthesized: Float[Array | np.ndarray, "S N D"],
    features: Float[Array | np.ndarray, "M D"],
    images: np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    columns: int = 8,
    titles: Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """A row for each seed: its image, then the images whose features are nearest to what was made of it.

    What is nearest need not be near: the distance stands above each image. Images that many samples share are
    shown once, the most frequent first.

    Args:
        seed_images: (S, H, W, C) or (S, H, W), uint8, or floats from 0 to 1.
        synthesized: N samples of each seed, of `synthesize(..., include_seeds=False)`.
        features: of the images to choose from, without the seeds' own, in the space of the samples:
            `delta.scaling(features)`.
        images: (M, H, W, C), as `seed_images`.
        labels: names of the images' classes, one an image, to stand below them.
        columns: images of a row, at most.
        titles: of the rows, such as the classes of the seeds.
        ax: matplotlib axes to draw into; None: of a new figure.

    Returns:
        The axes: `axes.figure.savefig("imagined.png")`.

    Raises:
        ValueError: numbers of seeds or images that do not fit.
    """
    made = np.asarray(synthesized)
    if made.ndim != 3 or len(made) != len(seed_images):
        raise ValueError(
            f"synthesized must be (seeds, samples, features) of {len(seed_images)} seeds, got {made.shape}"
        )
    if len(images) != len(features) or (labels is not None and len(labels) != len(images)):
        raise ValueError(f"images are {len(images)}, features {len(features)}: give one image and label each")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    for name, x in (("synthesized", made), ("features", np.asarray(features))):
        if not np.isfinite(x).all():
            raise ValueError(f"{name} hold NaN or infinite values: leave such examples out")
    found = [_most_frequent(nearest_real(of_one, features), columns) for of_one in made]
    height, width = np.shape(images)[1:3]
    gap = max(2, width // 4)
    wide = (1 + columns) * (width + gap)
    axes = ax or _figure(max(4.0, 1.1 * (1 + columns)), 1.4 * len(made) + 0.4).subplots()
    tall = height + max(6, height // 2)  # room for a line above and one below
    for row, (seed, nearest) in enumerate(zip(seed_images, found, strict=True)):
        top = float(row * tall)
        _draw(axes, seed, 0.0, top)
        _write(axes, "seed" if titles is None else titles[row], width / 2, top - 0.6, "bottom")
        for column, (place, distance, share) in enumerate(nearest, start=1):
            left = float(column * (width + gap))
            _draw(axes, images[place], left, top)
            _write(axes, f"{distance:.2g}, {share:.0%}", left + width / 2, top - 0.6, "bottom")
            if labels is not None:
                _write(axes, labels[place], left + width / 2, top + height - 0.4, "top")
    axes.set(xlim=(-gap, wide), ylim=(len(made) * tall - 1, -max(4, height // 4)), aspect="equal")
    axes.axis("off")
    axes.set_title(
        "seed | nearest real images of its synthesized features (distance, share of samples)",
        fontsize="small",
        loc="left",
    )
    return axes


def plot_samples(results: Mapping[str, Mapping[int, Mean | tuple[float, float]]], ax: Any = None) -> Any:
    """Accuracy against the number of synthesized samples of a class, a line for each method.

    Args:
        results: name -> samples -> (mean, half of the interval), shares from 0 to 1, as
            `EpisodeResult.accuracy` is. The number 0 stands left of 1 on the logarithmic axis.

    Raises:
        ValueError: no results, negative numbers of samples, a mean that is no share.
    """
    if not results or not all(results.values()):
        raise ValueError("results is empty: give {name: {samples: (mean, half)}}")
    for name, line in results.items():
        for samples, (mean, half) in line.items():
            if samples < 0 or not 0 <= mean <= 1 or half < 0:
                raise ValueError(f"results: {name!r} at {samples} samples is {mean} ± {half}, no such share")
    axes = ax or _figure(7.0, 4.5).subplots()
    for i, (name, line) in enumerate(results.items()):
        places = np.array(sorted(line))
        mean, half = 100 * np.array([tuple(line[n]) for n in places.tolist()], np.float64).T
        look: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)]}
        axes.plot(places, mean, marker="o", markersize=4, ls=_STYLES[i % len(_STYLES)], label=name, **look)
        drawn = np.isfinite(half)
        axes.fill_between(
            places[drawn], (mean - half)[drawn], (mean + half)[drawn], alpha=0.2, linewidth=0, **look
        )
    axes.set_xscale("symlog", base=2, linthresh=1)
    every = sorted({n for line in results.values() for n in line})
    axes.set_xticks(every, [f"{n:,}" for n in every])
    axes.minorticks_off()
    axes.set(xlabel="synthesized samples of a class", ylabel="accuracy [%]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return axes


def _most_frequent(found: Nearest, columns: int) -> list[tuple[int, float, float]]:
    """(row, least distance, share of the samples), the most frequent first, then the nearest."""
    rows, counts = np.unique(found.rows, return_counts=True)
    least = np.array([found.distances[found.rows == row].min() for row in rows])
    order = np.lexsort((rows, least, -counts))[:columns]
    return [(int(rows[i]), float(least[i]), float(counts[i] / len(found.rows))) for i in order]


def _draw(axes: Any, image: np.ndarray, left: float, top: float) -> None:
    pixels = np.asarray(image)
    pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    height, width = pixels.shape[:2]
    place = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    axes.imshow(np.clip(pixels, 0, 1), extent=place, cmap="gray", vmin=0, vmax=1)


def _write(axes: Any, text: str, x: float, y: float, where: str) -> None:
    axes.text(x, y, text, ha="center", va=where, fontsize="xx-small")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")
