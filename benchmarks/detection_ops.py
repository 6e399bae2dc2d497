"""A detector's operations: 2,000 boxes suppressed, 2,000 regions of 7 × 7 × 256 aligned and pooled.

The rivals are torchvision's CPU operators where they are (`torchvision_operators` says so; its package for
another PyTorch lacks them) and the same loops in C, compiled here with -O3 for this processor, on one thread.
"c" has the channels last, as we do, which is the faster way; "c_channels_first" goes through maps as PyTorch
lays them out. Without a C compiler there is NumPy's greedy loop alone, for suppression.

`mismatches` counts, at each threshold, the random cases of 300 boxes in which suppression and the greedy loop
keep other boxes or another order. Their coordinates are multiples of 1/8 pixel in images of 256, so that IoUs
are equal to the last bit and no rounding decides; `mismatches_any_numbers` is the same on other coordinates.
"""

import ctypes
import functools
import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewshotjax.detection import deformable_roi_pool, nms, roi_align

from .common import QUICK, finish, say, time_side_by_side

BOXES, SIZE, CHANNELS = 2_000, 7, 256
# Rows and columns, stride: the finest level of an image of 128 pixels, and the stride-16 level of 800 × 1088.
MAPS = {"32x32": (32, 32, 4), "50x68": (50, 68, 16)}
THRESHOLDS = (0.3, 0.5, 0.7)
CASES, CASE_BOXES = (50 if QUICK else 1_000), 300
ROUNDS = 3 if QUICK else 9


def main() -> None:
    compiled, vision = library(), torchvision_operators()
    rng = np.random.default_rng(0)
    result = {
        "settings": {
            "boxes": BOXES,
            "size": SIZE,
            "channels": CHANNELS,
            "sampling_ratio": 2,
            "samples": 4,
            "maps": {name: list(shape) for name, shape in MAPS.items()},
            "cases": CASES,
            "boxes_of_a_case": CASE_BOXES,
            "rounds": ROUNDS,
            "seed": 0,
        },
        "c_compiler": compiled is not None,
        "torchvision_operators": vision is not None,
        **mismatches(rng),
        "nms": suppression(rng, compiled, vision),
        "roi_align": {name: aligned(rng, name, compiled, vision) for name in MAPS},
        "deformable": {name: deformed(rng, name, compiled) for name in MAPS},
    }
    finish("detection_ops", result)


# Suppression


def some_boxes(rng: np.random.Generator, count: int, grid: float | None = None) -> np.ndarray:
    """In 30 heaps within 256 pixels, with sides of 8 to 64."""
    heaps = rng.uniform(0, 256, (30, 2))
    middle = heaps[rng.integers(0, 30, count)] + rng.normal(0, 12, (count, 2))
    half = np.exp(rng.uniform(np.log(8), np.log(64), (count, 2))) / 2
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    return (boxes if grid is None else np.round(boxes / grid) * grid).astype(np.float32)


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Box by box, against all that are left at once."""
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while order.size:
        i, rest = order[0], order[1:]
        kept.append(i)
        w = np.maximum(np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]), 0)
        h = np.maximum(np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]), 0)
        both = w * h
        order = rest[both / (area[i] + area[rest] - both) <= np.float32(threshold)]
    return np.array(kept)


def mismatches(rng: np.random.Generator) -> dict[str, dict[str, int]]:
    run = jax.jit(functools.partial(nms, count=CASE_BOXES))
    found: dict[str, dict[str, int]] = {}
    for name, grid in (("mismatches", 1 / 8), ("mismatches_any_numbers", None)):
        wrong = dict.fromkeys(map(str, THRESHOLDS), 0)
        for case in range(CASES):
            boxes = some_boxes(rng, CASE_BOXES, grid)
            scores = rng.uniform(size=CASE_BOXES).astype(np.float32)
            scores = np.round(scores, 1) if case % 2 else scores  # every other case with many ties
            for threshold in THRESHOLDS:
                ours = run(jnp.asarray(boxes), jnp.asarray(scores), threshold)
                kept = np.asarray(ours.indices)[np.asarray(ours.valid)]
                wrong[str(threshold)] += not np.array_equal(kept, greedy(boxes, scores, threshold))
        say(f"{name}: {wrong} of {CASES} cases")
        found[name] = wrong
    return found


def suppression(rng: np.random.Generator, compiled: Any, vision: Any) -> dict[str, Any]:
    """Milliseconds of 2,000 boxes, all that are kept and the first 100."""
    boxes, scores = some_boxes(rng, BOXES), rng.uniform(size=BOXES).astype(np.float32)
    given = jnp.asarray(boxes), jnp.asarray(scores)
    every, first = (jax.jit(functools.partial(nms, count=count)) for count in (BOXES, 100))
    found: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda t=threshold: every(*given, t),
            "ours_first_100": lambda t=threshold: first(*given, t),
            "numpy": lambda t=threshold: greedy(boxes, scores, t),
        }
        if compiled is not None:
            runs["c"] = lambda t=threshold: c_nms(compiled, boxes, scores, t)
        if vision is not None:
            torch = importlib.import_module("torch")
            tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
            runs["torchvision"] = lambda t=threshold, x=tensors: vision.ops.nms(*x, t)
        record = timed(f"nms at {threshold}", runs)
        record["kept"] = len(greedy(boxes, scores, threshold))
        found[str(threshold)] = record
    return found


def c_nms(compiled: Any, boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    ranked, kept = np.ascontiguousarray(boxes[order]), np.empty(len(boxes), np.int32)
    count = compiled.nms(pointer(ranked), len(boxes), ctypes.c_float(threshold), pointer(kept))
    return order[kept[:count]]


# Regions


def regions(rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """A map, and regions with sides of 4 to 12 cells, as the rule of levels gives them."""
    height, width, stride = MAPS[name]
    middle = rng.uniform(0, 1, (BOXES, 2)) * [width * stride, height * stride]
    half = np.exp(rng.uniform(np.log(4), np.log(12), (BOXES, 2))) * stride / 2
    boxes = np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)
    return rng.normal(size=(height, width, CHANNELS)).astype(np.float32), boxes, 1 / stride


def aligned(rng: np.random.Generator, name: str, compiled: Any, vision: Any) -> dict[str, Any]:
    features, boxes, scale = regions(rng, name)
    ours = jax.jit(lambda f, b: roi_align(f, b, SIZE, scales=scale))
    given = jnp.asarray(features), jnp.asarray(boxes)
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: ours(*given)}
    out = np.empty((BOXES, SIZE, SIZE, CHANNELS), np.float32)
    if compiled is not None:
        runs["c"] = lambda: c_regions(compiled.roi_align, features, boxes, scale, 2, out)
        channels_first = np.ascontiguousarray(features.transpose(2, 0, 1))
        other = np.empty((BOXES, CHANNELS, SIZE, SIZE), np.float32)
        runs["c_channels_first"] = lambda: c_regions(
            compiled.roi_align_channels_first, channels_first, boxes, scale, 2, other
        )
    if vision is not None:
        torch = importlib.import_module("torch")
        tensors = (
            torch.from_numpy(features).permute(2, 0, 1)[None].contiguous(),
            [torch.from_numpy(boxes)],
            SIZE,
            scale,
            2,
            True,
        )
        runs["torchvision"] = lambda: vision.ops.roi_align(*tensors)
    record = timed(f"roi_align {name}", runs)
    if compiled is not None:
        found = np.asarray(ours(*given))
        record["largest_difference_from_c"] = float(np.abs(found - out).max())
        record["largest_difference_from_c_channels_first"] = float(
            np.abs(found - other.transpose(0, 2, 3, 1)).max()
        )
    record["largest_difference_from_torchvision_in_python"] = python_difference(features, boxes, scale, ours)
    return record


def deformed(rng: np.random.Generator, name: str, compiled: Any) -> dict[str, Any]:
    features, boxes, scale = regions(rng, name)
    offsets = rng.normal(size=(BOXES, SIZE, SIZE, 2)).astype(np.float32)
    ours = jax.jit(lambda f, b, o: deformable_roi_pool(f, b, o, SIZE, scales=scale))
    given = jnp.asarray(features), jnp.asarray(boxes), jnp.asarray(offsets)
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: ours(*given)}
    out = np.empty((BOXES, SIZE, SIZE, CHANNELS), np.float32)
    if compiled is not None:
        more = (pointer(offsets), ctypes.c_float(0.1))
        runs["c"] = lambda: c_regions(compiled.deformable, features, boxes, scale, 4, out, *more)
    record = timed(f"deformable {name}", runs)
    if compiled is not None:
        # A sample within rounding of the map's edge may be left out by one and counted by the other.
        apart = np.abs(np.asarray(ours(*given)) - out).max(axis=-1)
        record["share_of_bins_apart"] = float((apart > 1e-4).mean())
        record["largest_difference_of_the_others"] = float(apart[apart <= 1e-4].max())
    return record


def c_regions(
    function: Any, features: np.ndarray, boxes: np.ndarray, scale: float, samples: int, out: Any, *more: Any
) -> None:
    function(
        pointer(features),
        *features.shape,
        pointer(boxes),
        len(boxes),
        SIZE,
        ctypes.c_float(scale),
        samples,
        *more,
        pointer(out),
    )


def python_difference(features: np.ndarray, boxes: np.ndarray, scale: float, ours: Any) -> float | None:
    """From torchvision's ROI align in PyTorch alone, which needs no operators, on 50 regions.

    Of those within the map: it does not leave out samples beyond it, as torchvision's operator does.
    """
    try:
        from .zoo_torch import torchvision

        torchvision()
        torch = importlib.import_module("torch")
        eager = importlib.import_module("torchvision.ops.roi_align")
    except (ImportError, ValueError):
        return None
    height, width, _ = features.shape
    inner = (boxes.min(axis=1) >= 0) & (boxes[:, 2] * scale <= width) & (boxes[:, 3] * scale <= height)
    rows = np.flatnonzero(inner)[:50]
    rois = torch.from_numpy(np.pad(boxes[rows], ((0, 0), (1, 0))))
    bare = torch.compiler.disable(eager._roi_align)
    maps = torch.from_numpy(features).permute(2, 0, 1)[None]
    theirs = bare(maps, rois, scale, SIZE, SIZE, 2, True).permute(0, 2, 3, 1).numpy()
    return float(np.abs(np.asarray(ours(jnp.asarray(features), jnp.asarray(boxes)))[rows] - theirs).max())


# What both have in common


def timed(name: str, runs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Median milliseconds, and how many times ours each rival took, as the median over rounds."""
    times = time_side_by_side(runs, ROUNDS)
    median = {run: 1e3 * float(np.median(seconds)) for run, seconds in times.items()}
    ratios = {run: float(np.median(times[run] / times["ours"])) for run in runs if not run.startswith("ours")}
    say(f"{name}: " + ", ".join(f"{run} {ms:.1f} ms" for run, ms in median.items()))
    return {"ms": median, "times_ours": ratios}


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def library() -> Any:
    """detection_ops.c, compiled; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source = Path(__file__).with_suffix(".c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "detection_ops.so"
        subprocess.run(
            [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(target), "-lm"],
            check=True,
        )
        return ctypes.CDLL(str(target))


def torchvision_operators() -> Any:
    """The package if its compiled operators work, else None."""
    try:
        vision, torch = importlib.import_module("torchvision"), importlib.import_module("torch")
        vision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, NotImplementedError):
        return None
    return vision


if __name__ == "__main__":
    main()
