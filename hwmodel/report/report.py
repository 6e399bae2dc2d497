"""What `hwmodel report` says and writes: a placement, where its time goes, how far it is from the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from ..atomic import write_text
from ..baselines import BASELINES
from ..bits import INT8, Bits
from ..chip import Chip
from ..chips.file import save_chip
from ..gradient import optimize_placement
from ..optimum import Optimum, optimal_placement
from ..problem import problem
from ..workload import Workload
from ..workload_file import save_workload
from .explain import Explanation, explain
from .placement_csv import read_placement_csv

OPTIMAL, GRADIENT = "optimal", "gradient"
PLACEMENTS = (OPTIMAL, GRADIENT, *BASELINES)


@dataclass(frozen=True, eq=False)
class Report:
    """One placement among the others."""

    workload: Workload
    how: str  # the placement was made: a name of PLACEMENTS, or a file
    explanation: Explanation
    backing_s: float  # latency with everything in the backing store
    rules_s: dict[str, float]  # latency by each baseline
    optimum: Optimum | None  # None: not asked for

    @property
    def speed_up(self) -> float:
        """Over everything in the backing store."""
        return self.backing_s / self.explanation.latency_s if self.explanation.latency_s else 1.0

    @property
    def gap(self) -> float | None:
        """Latency / proven lower bound - 1; None without a bound, or for a placement that does not fit."""
        if self.optimum is None or not self.explanation.fits or self.optimum.lower_bound_s <= 0:
            return None
        return max(self.explanation.latency_s / self.optimum.lower_bound_s - 1, 0.0)

    def text(self, top: int | None = 12) -> str:
        """The report, with the `top` longest operations; None: all, in order."""
        chip = self.explanation.chip
        lines = [
            self.workload.summary().splitlines()[-1],
            f"chip {chip.name}: {_chip_line(chip)}",
            f"placement: {self.how}",
            "",
            self.explanation.text(None if top is None else min(top, len(self.workload.operations))),
            "",
            f"{self.speed_up:.2f}x as fast as everything in {chip.levels[0].name} "
            f"({self.backing_s * 1e6:.6g} us)",
            "by rule: "
            + ", ".join(f"{name} {seconds * 1e6:.6g} us" for name, seconds in self.rules_s.items()),
        ]
        if self.optimum is not None:
            found = self.optimum
            how = "the optimum" if found.status == "optimal" else "the best known"
            lines.append(
                f"no placement takes less than {found.lower_bound_s * 1e6:.6g} us; {how}, "
                f"{found.latency_s * 1e6:.6g} us, was found in {found.seconds:.1f} s"
            )
        if self.gap is not None:
            lines.append(f"gap to the bound: {self.gap:.3%}")
        return "\n".join(lines)


def make_report(
    workload: Workload,
    chip: Chip,
    placement: str = OPTIMAL,
    bits: Bits = INT8,
    time_limit_s: float = 5.0,
    seed: int = 0,
) -> Report:
    """Places a workload and explains it.

    Args:
        workload: the network.
        chip: where it runs.
        placement: a name of PLACEMENTS, a .csv file (`read_placement_csv`) or a .json file of an allocation.
        bits: bit-widths.
        time_limit_s: of the search for the optimum and its bound; 0 leaves it out.
        seed: of the gradient placement.

    Raises:
        ValueError: another placement, a time limit below 0, what the model refuses.
    """
    if not time_limit_s >= 0:
        raise ValueError(f"time_limit_s must be at least 0, got {time_limit_s}")
    if placement == OPTIMAL and time_limit_s == 0:
        raise ValueError("the optimal placement needs a time limit above 0")
    tables = problem(workload, chip, bits)
    read = None if placement in PLACEMENTS else _read(placement, workload, chip, bits)
    by_rule = {name: rule(tables) for name, rule in BASELINES.items()}
    optimum = optimal_placement(tables, time_limit_s) if time_limit_s else None
    if read is not None:
        levels = read
    elif placement == GRADIENT:
        levels = optimize_placement(jax.random.key(seed), tables).placement
    elif optimum is not None and placement == OPTIMAL:
        levels = optimum.placement
    else:
        levels = by_rule[placement]
    everything_below = np.zeros((len(workload.operations), 2), np.int32)
    return Report(
        workload=workload,
        how=placement,
        explanation=explain(workload, chip, levels, bits),
        backing_s=explain(workload, chip, everything_below, bits).latency_s,
        rules_s={name: explain(workload, chip, found, bits).latency_s for name, found in by_rule.items()},
        optimum=optimum,
    )


def write_report(folder: Path, report: Report) -> Sequence[str]:
    """Writes text, tables and pictures to a folder, and returns their names."""
    from . import plots  # takes a second to import

    explanation = report.explanation
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.txt", report.text(top=None) + "\n")
    explanation.to_csv(folder / "explanation.csv")
    explanation.to_json(folder / "explanation.json")
    save_workload(folder / "workload.json", report.workload)
    save_chip(folder / "chip.toml", explanation.chip)
    plots.memory_figure(explanation).savefig(folder / "memory.png")
    for name, plot in (
        ("latency", plots.plot_latency),
        ("roofline", plots.plot_roofline),
        ("placement", plots.plot_placement),
    ):
        figure = plot(explanation).get_figure(root=True)
        if figure is not None:
            figure.savefig(folder / f"{name}.png")
    return sorted(file.name for file in folder.iterdir())


def _read(placement: str, workload: Workload, chip: Chip, bits: Bits) -> Int[np.ndarray, "n 2"]:
    suffix = Path(placement).suffix.lower()
    if suffix == ".csv":
        return read_placement_csv(placement, workload, chip)
    if suffix == ".json":
        from ..addresses import load_placement  # its solvers are an optional extra

        return load_placement(placement, workload, chip, bits).placement
    raise ValueError(
        f"no placement {placement!r}: give {', '.join(PLACEMENTS)}, a .csv file with the columns operation, "
        "weight_level, output_level, or a .json file of an allocation"
    )


def _chip_line(chip: Chip) -> str:
    levels = [
        f"{level.name} {'unlimited' if level.capacity_bytes is None else f'{level.capacity_bytes:,} B'} at "
        f"{level.read_bytes_per_s / 1e9:,.4g}/{level.write_bytes_per_s / 1e9:,.4g} GB/s"
        for level in chip.levels
    ]
    rates = [f"{r.weight_bits}x{r.activation_bits} bits {r.ops_per_s / 1e9:,.6g} GOPS" for r in chip.compute]
    return f"{', '.join(levels)}; {', '.join(rates)}"
