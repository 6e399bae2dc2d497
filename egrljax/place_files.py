"""What `egrljax map` leaves in a folder."""

import json
from pathlib import Path
from typing import Any

import hwmodel as hw

from .placed import Placed

SCHEMA, VERSION = "frugaljax.map", 1


def write_placed(folder: Path, placed: Placed, pins: dict[str, str] | None = None) -> tuple[list[str], str]:
    """Writes everything, each file whole or not at all.

    - placement.json, placement.csv: level, address, bytes and lifetime of every tensor (extra `addresses`)
    - minimalloc_LEVEL.csv: the buffers of each memory, which minimalloc reads
    - map.json: engine, latencies, gap, settings, and the level of every tensor
    - before.csv, after.csv: the time of each operation, under the best compiler's placement and this one
    - placement.png, memory.png, latency.png, latency_before.png, course.png

    Returns:
        The names of the files, and what the packing says; or why there is none.
    """
    from .plots import plot_course  # takes a second to import

    draw: Any = hw  # its plots come when asked for, as objects without a type
    folder.mkdir(parents=True, exist_ok=True)
    before, after = placed.before(), placed.explain()
    hw.write_text(folder / "map.json", json.dumps(document(placed), indent=1) + "\n")
    before.to_csv(folder / "before.csv")
    after.to_csv(folder / "after.csv")
    packed = _write_addresses(folder, placed, pins)
    draw.memory_figure(after).savefig(folder / "memory.png")
    pictures = {
        "placement": draw.plot_placement(after),
        "latency": draw.plot_latency(after),
        "latency_before": draw.plot_latency(before),
    }
    if placed.course is not None:
        pictures["course"] = plot_course(placed)
    for name, axes in pictures.items():
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.savefig(folder / f"{name}.png")
    hw.write_text(folder / "map.txt", f"{placed.text()}\n{packed}\n")
    return sorted(file.name for file in folder.iterdir() if file.is_file()), packed


def document(placed: Placed) -> dict[str, Any]:
    """map.json as JSON values."""
    names = placed.chip.level_names
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "workload": placed.workload.name,
        "chip": placed.chip.name,
        "engine": placed.engine,
        "why": placed.why,
        "latency_s": placed.latency_s,
        "rules_s": placed.rules_s,
        "bound_s": placed.bound_s,
        "gap": placed.gap,
        "speedup": placed.speedup,
        "evaluations": placed.evaluations,
        "seconds": round(placed.seconds, 3),
        "finished": placed.finished,
        "contention": placed.contention,
        "settings": placed.settings,
        "tensors": {
            t.name: names[int(placed.placement[t.operation, t.column])]
            for t in hw.tensors(placed.workload, placed.bits, placed.chip.count_bias)
        },
    }


def _write_addresses(folder: Path, placed: Placed, pins: dict[str, str] | None) -> str:
    try:
        packed = hw.allocate(placed.workload, placed.chip, placed.placement, placed.bits, pins=pins)
    except ImportError:
        return "addresses: left out; they need `pip install frugaljax[addresses]`"
    hw.save_placement(folder / "placement.json", packed)
    hw.save_placement(folder / "placement.csv", packed)
    for level in placed.chip.level_names:
        here = [a for a in packed.addresses if a.level == level]
        if here:
            buffers = [hw.Buffer(a.name, a.birth, a.death + 1, a.bytes * a.copies) for a in here]
            hw.write_minimalloc(folder / f"minimalloc_{level}.csv", buffers)
    return packed.report()
