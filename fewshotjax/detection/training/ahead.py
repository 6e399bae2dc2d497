"""Draws made in a thread of their own, one ahead of the one that is in use."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """`ahead[i]` is `make(i)`; make(i + 1) begins meanwhile, for 0 ≤ i + 1 < count.

    A context manager waits for the thread. An error of `make` is raised where its result is asked for.
    """

    def __init__(self, make: Callable[[int], Made], count: int):
        self._make, self._count = make, count
        self._pool = ThreadPoolExecutor(1, "draws")
        self._coming: dict[int, Future[Made]] = {}

    def __getitem__(self, number: int) -> Made:
        coming = self._coming.pop(number, None)
        found = (coming or self._pool.submit(self._make, number)).result()
        self._coming = {}
        if number + 1 < self._count:
            self._coming = {number + 1: self._pool.submit(self._make, number + 1)}
        return found

    def __enter__(self) -> "Ahead[Made]":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
