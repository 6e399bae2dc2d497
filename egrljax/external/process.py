"""One run of a program: bounded in time and in output, and nothing of it left behind. POSIX only."""

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, NamedTuple

_TICK_S = 0.02  # between two looks at the clock
_REAP_S = 5.0  # that a killed process may take to be gone
_CHUNK = 1 << 16


class Stopped(Exception):
    """The run was called off from outside."""


class Tail:
    """The last bytes of a stream, of which any number may come."""

    def __init__(self, most: int):
        self._most, self._kept, self.total = most, bytearray(), 0

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self._kept += chunk
        del self._kept[: max(len(self._kept) - self._most, 0)]

    @property
    def cut(self) -> bool:
        """Whether its beginning is lost."""
        return self.total > len(self._kept)

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


class Ended(NamedTuple):
    """A run that came to its end by itself."""

    code: int  # of the exit; -n: by signal n
    out: Tail
    err: Tail


def run(
    argv: Sequence[str],
    given: IO[bytes] | None,
    *,
    cwd: str | None,
    timeout_s: float,
    stop: threading.Event,
    most_bytes: int,
) -> Ended:
    """Runs a program in a session of its own, whose whole process group is killed at the end, whatever it is.

    A program that opens yet another session escapes that; so does everything if this very process is killed
    by a signal that it cannot answer.

    Args:
        given: a file as its standard input; None: an empty one.
        stop: set from another thread, calls it off within a few hundredths of a second.
        most_bytes: kept of each of its two output streams; what came before is read and forgotten.

    Raises:
        TimeoutError: it was still running after `timeout_s` seconds.
        Stopped: `stop` was set.
        OSError: it cannot be started.
    """
    end = time.monotonic() + timeout_s
    stdin = subprocess.DEVNULL if given is None else given
    process = subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = Tail(most_bytes), Tail(most_bytes)
    try:
        with selectors.DefaultSelector() as open_pipes:
            for pipe, tail in ((process.stdout, out), (process.stderr, err)):
                os.set_blocking(pipe.fileno(), False)
                open_pipes.register(pipe, selectors.EVENT_READ, tail)
            while not _has_ended(process.pid):
                if stop.is_set():
                    raise Stopped("called off")
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"timed out after {timeout_s:g} s, killed")
                _read(open_pipes, min(left, _TICK_S))
            _kill(process.pid)  # what it left running may hold its pipes open
            for _ in range(2 * most_bytes // _CHUNK + 2):
                if not _read(open_pipes, 0.0):
                    break
    finally:
        # The group first: until it is waited for, the leader keeps the group's number from being given anew.
        _kill(process.pid)
        process.stdout.close()
        process.stderr.close()
        code = process.wait(_REAP_S)
    return Ended(code, out, err)


def _read(open_pipes: selectors.BaseSelector, timeout_s: float) -> bool:
    """Reads what has come within that time; whether there was anything."""
    if not open_pipes.get_map():
        time.sleep(timeout_s / 4)
        return False
    found = False
    for key, _ in open_pipes.select(timeout_s):
        try:
            chunk = os.read(key.fd, _CHUNK)
        except BlockingIOError:
            continue
        found = True
        if chunk:
            key.data.add(chunk)
        else:
            open_pipes.unregister(key.fileobj)
    return found


def _has_ended(pid: int) -> bool:
    """Without taking its exit status, so that its number and its group's stay its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # none is left; macOS says the latter of zombies
        os.killpg(group, signal.SIGKILL)
