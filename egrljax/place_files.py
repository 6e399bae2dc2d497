"""What `egrljax map` leaves in a folder."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

import hwmodel as hw

from .placed import Placed

SCHEMA, VERSION = "frugaljax.map", 1


def write_placed(folder: str | os.PathLike[str], placed: Placed) -> tuple[list[str], str]:
    """Writes everything, each file whole or not at all.

    - placement.json, placement.csv: level, address, bytes and lifetime of every tensor (extra `addresses`)
    - minimalloc_LEVEL.csv: the buffers of each memory, which minimalloc reads
    - map.json: engine, latencies, gap, settings, and level, bytes and lifetime of every tensor
    - map.txt: what a person wants to know first
    - before.csv, after.csv: the time of each operation by the model, under the best compiler's placement and
      this one
    - placement.png, memory.png, latency.png, latency_before.png; after a search course.png

    Returns:
        The names of the files, and what the packing says; or why there is none.

    Raises:
        OSError: a folder that cannot be written to.
    """
    from .plots import plot_course  # takes a second to import

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    before, after = placed.before(), placed.explain()
    allocation, packing = _addresses(folder, placed)
    text = json.dumps(document(placed, allocation), indent=1, allow_nan=False)
    hw.write_text(folder / "map.json", text + "\n")
    before.to_csv(folder / "before.csv")
    after.to_csv(folder / "after.csv")
    hw.memory_figure(after).savefig(folder / "memory.png")
    pictures = {
        "placement": hw.plot_placement(after),
        "latency": hw.plot_latency(after),
        "latency_before": hw.plot_latency(before),
    }
    if placed.course is not None:
        pictures["course"] = plot_course(placed)
    for name, axes in pictures.items():
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.savefig(folder / f"{name}.png")
    hw.write_text(folder / "map.txt", f"{placed.text()}\n{packing}\n")
    return sorted(file.name for file in folder.iterdir() if file.is_file()), packing


def document(placed: Placed, allocation: hw.Allocation | None = None) -> dict[str, Any]:
    """map.json as JSON values; where the packing had to demote tensors, with the levels that they got."""
    names = placed.chip.level_names
    levels = placed.placement if allocation is None else allocation.placement
    moved = allocation is not None and bool(allocation.demoted)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "workload": placed.workload.name,
        "chip": placed.chip.name,
        "engine": placed.engine,
        "why": placed.why,
        "latency_s": placed.latency_s,
        # What the levels and addresses in these files come to, where packing had to demote tensors.
        "packed_latency_s": placed.model_s(levels) if moved else None,
        "rules_s": {n: seconds if np.isfinite(seconds) else None for n, seconds in placed.rules_s.items()},
        "bound_s": placed.bound_s,
        "gap": placed.gap,
        "speedup": placed.speedup,
        "evaluations": placed.evaluations,
        "seconds": round(placed.seconds, 3),
        "finished": placed.finished,
        "contention": placed.contention,
        "bits": {name: np.asarray(width).tolist() for name, width in placed.bits._asdict().items()},
        "pins": placed.pins,
        "forbidden": {name: list(levels) for name, levels in placed.forbidden.items()},
        "reserved": {lv.name: lv.reserved_bytes for lv in placed.chip.levels if lv.reserved_bytes},
        "settings": placed.settings,
        "tensors": {
            t.name: {
                "level": names[int(levels[t.operation, t.column])],
                "bytes": t.bytes,
                "birth": t.birth,
                "death": t.death,
            }
            for t in hw.tensors(placed.workload, placed.bits, placed.chip.count_bias)
        },
    }


def _addresses(folder: Path, placed: Placed) -> tuple[hw.Allocation | None, str]:
    """Packs every memory and writes the files of it; and what is to be said of it."""
    try:
        packed = hw.allocate(
            placed.workload,
            placed.chip,
            placed.placement,
            placed.bits,
            pins=placed.pins,
            forbidden=placed.forbidden,
        )
    except ImportError:
        return None, "addresses: left out; they need `pip install frugaljax[addresses]`"
    hw.save_placement(folder / "placement.json", packed)
    hw.save_placement(folder / "placement.csv", packed)
    for level in placed.chip.level_names:
        here = [a for a in packed.addresses if a.level == level]
        if here:
            buffers = [hw.Buffer(a.name, a.birth, a.death + 1, a.bytes * a.copies) for a in here]
            hw.write_minimalloc(folder / f"minimalloc_{level}.csv", buffers)
    report = packed.report()
    if packed.demoted:
        report += f"\nas packed: {placed.model_s(packed.placement) * 1e6:.6g} us"
    return packed, report
