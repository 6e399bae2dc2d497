"""Packing as a constraint program, solved by CP-SAT (OR-tools)."""

from .task import Answer, Task

WORKERS = 2


def solve(task: Task, time_limit_s: float = 60.0, seed: int = 0) -> Answer:
    """Offsets that fit the capacity, or a proof that there are none, or neither within the limit.

    Variables are the offsets; rectangles must not overlap, and in each section the sizes must add up to at
    most the capacity (redundant, but it propagates). Upside down, a packing is a packing, too: so where
    nothing is fixed, the largest rectangle goes in the lower half.

    Raises:
        ImportError: OR-tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise ImportError("this packing needs ortools: pip install 'frugaljax[addresses]'") from None
    model = cp_model.CpModel()
    offsets, across, along = [], [], []
    for i in range(task.n):
        fixed, size = task.fixed[i], task.size[i]
        low, high = (0, task.capacity - size) if fixed is None else (fixed, fixed)
        if low > high:
            return Answer(None, task.capacity + 1)
        at = model.new_int_var(low, high, f"offset_{i}")
        offsets.append(at)
        across.append(model.new_fixed_size_interval_var(at, size, f"bytes_{i}"))
        start, steps = task.lower[i], task.upper[i] - task.lower[i]
        along.append(model.new_fixed_size_interval_var(start, steps, f"steps_{i}"))
    model.add_no_overlap_2d(along, across)
    model.add_cumulative(along, list(task.size), task.capacity)
    if all(at is None for at in task.fixed):
        tall = max(range(task.n), key=lambda i: task.size[i] * task.duration[i])
        model.add(2 * offsets[tall] <= task.capacity - task.size[tall])
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = WORKERS
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(tuple(int(solver.value(at)) for at in offsets))
    return Answer(None, task.capacity + 1 if status == cp_model.INFEASIBLE else 0)
