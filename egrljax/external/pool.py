"""A bounded pool of calls that leave JAX: each timed, tried again, at worst +inf and a line in the log."""

import heapq
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from .command import Command, named
from .config import ExternalConfig

OnItem = Callable[[int, float], Any]  # index of an item, its number

log = logging.getLogger("frugaljax.external")

_GRACE_S = 10.0  # beyond its time limit, for a command to be killed and its output read
_SHOWN = 80  # characters of an item in the log
_REASON = 400  # and of why it failed


class ExternalError(RuntimeError):
    """Measuring makes no sense any more: too many calls hang, or too many items failed in a row."""


class Failed(NamedTuple):
    """An attempt that gave no number."""

    reason: str


class External:
    """rows (K, ...) -> numbers (K,) float64, +inf where there is none; see `external`.

    Compared by identity. Calls from several threads at once are not meant.
    """

    def __init__(
        self, function: Callable[..., Any], config: ExternalConfig | None = None, identity: str | None = None
    ):
        self.function, self.config = function, config or ExternalConfig()
        self.name = getattr(function, "__name__", None) or type(function).__name__
        if isinstance(function, Command):
            self.name = function.argv[0]
        self._identity = identity
        self._abandoned: list[threading.Thread] = []
        self._resting: list[float] = []  # when a worker's rest is over
        self._in_a_row = 0

    @property
    def identity(self) -> str | None:
        """What tells it from others; None: nothing does."""
        if self._identity is not None:
            return self._identity
        return self.function.identity if isinstance(self.function, Command) else named(self.function)

    def __call__(
        self, rows: Iterable[Any], *others: Any, on_item: OnItem | None = None
    ) -> Float[np.ndarray, " K"]:
        """Measures items, in any order; the answers have theirs.

        Args:
            rows: the items, an array along its first axis.
            others: further arguments, the same of all items.
            on_item: called in this thread as soon as an item is done, with its index and its number.

        Raises:
            ExternalError: see `ExternalConfig.abandoned` and `in_a_row`.
        """
        items = list(np.asarray(rows)) if hasattr(rows, "__array__") else list(rows)
        return _Round(self, items, others, on_item).finish()

    def settled(self, failed: bool, reason: str = "") -> None:
        """Counts items that failed one after the other."""
        self._in_a_row = self._in_a_row + 1 if failed else 0
        most = self.config.in_a_row
        if most is not None and self._in_a_row >= most:
            count, self._in_a_row = self._in_a_row, 0
            raise ExternalError(f"{self.name}: {count} items failed in a row, the last one by {reason}")

    def abandon(self, thread: threading.Thread) -> None:
        """Lets a call run on that cannot be killed."""
        self._abandoned = [other for other in self._abandoned if other.is_alive()]
        self._abandoned.append(thread)
        if len(self._abandoned) > self.config.abandoned:
            raise ExternalError(
                f"{self.name}: {len(self._abandoned)} calls run on past their time limit of "
                f"{self.config.timeout_s:g} s, and a thread cannot be killed: raise timeout_s, or make it a "
                "command(), which can be"
            )

    def resting(self, now: float) -> list[float]:
        """When each worker that rests is free again."""
        self._resting = [until for until in self._resting if until > now]
        return self._resting


def external(
    function: Callable[..., Any], config: ExternalConfig | None = None, *, identity: str | None = None
) -> External:
    """A function of one item, measured outside JAX, as one of many items: a `board`, or a cost of bits.

    At most `config.workers` calls are under way at once, each in a thread of its own. One that raises, runs
    out of its time, or gives anything but one real number is tried again; after the last attempt the item
    counts +inf. Each failed attempt leaves a line in the log "frugaljax.external". NaN and -inf are failures,
    +inf is an answer: this item is impossible.

    A `command` is killed at its time limit. A plain Python function cannot be: its result is abandoned, its
    worker replaced, and it runs on in its thread. So many may, `config.abandoned`; one more is an error.

    Args:
        function: item -> number; or a `command`.
        identity: tells it from others in checkpoints and caches, "board A, firmware 3"; say another one when
            what it measures has changed. Default: the command's line, or the function's module and name.
    """
    return External(function, config, identity)


def evaluate_all(
    function: Callable[..., Any], items: Iterable[Any], config: ExternalConfig | None = None
) -> Float[np.ndarray, " K"]:
    """`external(function, config)(items)`, for once."""
    return External(function, config)(items)


@dataclass(eq=False)
class _Attempt:
    """One call."""

    item: int
    number: int  # 1, 2, ...
    deadline: float
    thread: threading.Thread = field(init=False)


class _Round:
    """One call of a pool. All but `_work` happens in the caller's thread."""

    def __init__(
        self,
        pool: External,
        items: list[Any],
        others: tuple[Any, ...],
        on_item: OnItem | None,
    ):
        self.pool, self.items, self.others, self.on_item = pool, items, others, on_item
        self.found = np.full(len(items), np.inf)
        self.left = len(items)
        self.ready = deque((item, 1) for item in range(len(items)))  # item, attempt
        self.later: list[tuple[float, int, int]] = []  # a heap: when, item, attempt
        self.running: set[_Attempt] = set()
        self.answers: queue.SimpleQueue[tuple[_Attempt, float | Failed]] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.killable = isinstance(pool.function, Command)

    def finish(self) -> Float[np.ndarray, " K"]:
        try:
            while self.left:
                self._start()
                self._take()
                self._expire()
        except BaseException:
            self._call_off()
            raise
        return self.found

    def _start(self) -> None:
        """Fills the free workers."""
        config, now = self.pool.config, time.monotonic()
        while self.later and self.later[0][0] <= now:
            self.ready.append(heapq.heappop(self.later)[1:])
        while self.ready and len(self.running) + len(self.pool.resting(now)) < config.workers:
            item, number = self.ready.popleft()
            limit_s = config.timeout_s + (_GRACE_S if self.killable else 0.0)
            attempt = _Attempt(item, number, time.monotonic() + limit_s)
            # A daemon, so that one that hangs does not keep the interpreter from ending.
            attempt.thread = threading.Thread(target=self._work, args=(attempt,), daemon=True)
            self.running.add(attempt)
            attempt.thread.start()

    def _work(self, attempt: _Attempt) -> None:
        """In a thread of its own."""
        answer: float | Failed
        try:
            answer = _number(self._called(self.items[attempt.item]))
        except BaseException as error:  # also a SystemExit of the user's function
            text = str(error)
            reason = type(error).__name__ + (f": {text}" if text else "")
            answer = Failed(text if isinstance(error, TimeoutError) and self.killable else reason)
        self.answers.put((attempt, answer))

    def _called(self, item: Any) -> Any:
        function = self.pool.function
        if isinstance(function, Command):
            if self.others:
                raise TypeError("a command takes an item and nothing else")
            return function.attempt(item, self.pool.config.timeout_s, self.stop)
        return function(item, *self.others)

    def _take(self) -> None:
        """Waits for an answer, or until there is something else to do."""
        now = time.monotonic()
        times = [attempt.deadline for attempt in self.running]
        times += [self.later[0][0]] if self.later else []
        times += self.pool.resting(now) if self.ready else []
        try:
            attempt, answer = self.answers.get(timeout=max(min(times, default=now) - now, 0.0))
        except queue.Empty:
            return
        if attempt in self.running:  # else it was abandoned
            self._end(attempt, answer)

    def _expire(self) -> None:
        """Gives up what is past its time."""
        now = time.monotonic()
        for attempt in sorted(self.running, key=lambda attempt: attempt.item):
            if attempt.deadline <= now:
                self.running.discard(attempt)
                self.pool.abandon(attempt.thread)
                limit = self.pool.config.timeout_s
                self._end(attempt, Failed(f"timed out after {limit:g} s, and runs on in its thread"))

    def _end(self, attempt: _Attempt, answer: float | Failed) -> None:
        config, item = self.pool.config, attempt.item
        self.running.discard(attempt)
        if config.cooldown_s:
            self.pool.resting(0.0).append(time.monotonic() + config.cooldown_s)
        again = isinstance(answer, Failed) and attempt.number <= config.retries
        if isinstance(answer, Failed):
            wait_s = config.wait_s(attempt.number)
            log.warning(
                "%s: item %d (%s), attempt %d of %d failed: %s; %s",
                self.pool.name,
                item,
                _shown(self.items[item]),
                attempt.number,
                config.retries + 1,
                _reason(answer.reason),
                f"again in {wait_s:g} s" if again else "counts +inf",
            )
            if again:
                heapq.heappush(self.later, (time.monotonic() + wait_s, item, attempt.number + 1))
                return
        else:
            self.found[item] = answer
        self.left -= 1
        if self.on_item is not None:
            self.on_item(item, float(self.found[item]))
        self.pool.settled(isinstance(answer, Failed), answer.reason if isinstance(answer, Failed) else "")

    def _call_off(self) -> None:
        """Kills the commands under way and waits until they are gone; plain functions run on."""
        self.stop.set()
        end = time.monotonic() + _GRACE_S
        while self.killable and time.monotonic() < end:
            try:
                for attempt in self.running:
                    with suppress(RuntimeError):  # interrupted before it was started
                        attempt.thread.join(max(end - time.monotonic(), 0.0))
                break
            except KeyboardInterrupt:  # a second one would leave processes behind
                continue


def _number(answer: Any) -> float:
    """One real number that is not NaN, nor -inf.

    Raises:
        ValueError: anything else.
    """
    array = np.asarray(answer)
    if array.shape != () or array.dtype.kind not in "iuf":
        raise ValueError(f"must give one real number, got {type(answer).__name__} {answer!r}")
    number = float(array)
    if math.isnan(number) or number == -math.inf:
        raise ValueError(f"gave {number}")
    return number


def _shown(item: Any) -> str:
    """The beginning of an item for the log; of a large array after its shape."""
    if not hasattr(item, "__array__"):
        text = _line(repr(item))
    elif (array := np.asarray(item)).size <= _SHOWN:
        text = repr(array.tolist())
    else:
        text = f"{array.dtype} {array.shape}, {array.reshape(-1)[:_SHOWN].tolist()}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _reason(text: str) -> str:
    """Of a long one the beginning, and more of its end, where programs say why they failed."""
    text = _line(text)
    return text if len(text) <= _REASON else f"{text[: _REASON // 4]} ... {text[-3 * _REASON // 4 :]}"


def _line(text: str) -> str:
    """On one line and printable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
