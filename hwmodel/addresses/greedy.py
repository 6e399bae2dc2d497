"""First fit in many orders: fast packings that need not fit."""

from .task import Answer, Task


def solve(task: Task, time_limit_s: float = 0.0, seed: int = 0) -> Answer:
    """The lowest of omnimalloc's greedy packings; the limit and the seed are not used.

    Raises:
        ImportError: omnimalloc is not installed.
    """
    return named(task, "greedy_by_all")


def named(task: Task, allocator: str) -> Answer:
    """The packing of one of omnimalloc's allocators, by its name; fixed offsets stay where they are."""
    try:
        import omnimalloc
    except ImportError:
        raise ImportError("packing needs omnimalloc: pip install 'frugaljax[addresses]'") from None
    given = [
        omnimalloc.Allocation(i, size, lower, upper, fixed)
        for i, (size, lower, upper, fixed) in enumerate(
            zip(task.size, task.lower, task.upper, task.fixed, strict=True)
        )
    ]
    found = {a.id: a.offset for a in omnimalloc.allocate(given, allocator)}
    return Answer(tuple(found[i] for i in range(task.n)))
