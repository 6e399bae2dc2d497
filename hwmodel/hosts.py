"""Processes that share what is to be measured: `hosts=Hosts()`, after `jax.distributed.initialize()`.

Every process runs the same deterministic algorithm from the same key. What is measured is cut into as many
parts as there are processes; each measures its own, and all get all results, in the order of the rows: so
every process goes on with the numbers of one that measured alone. The first process alone writes files, and
what it read of them is sent to the others, which need no common file system.
"""

import json
import math
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .fields import check_fields

_AGAIN = "start all processes again, with the same checkpoint if one was given"


class HostsError(RuntimeError):
    """Another process is gone, late, failed, or does something else."""


@dataclass(frozen=True)
class Hosts:
    """The processes of `jax.distributed`, as a setting: all of them give the same.

    Args:
        timeout_s: how long a process waits for the slowest other one, from its own last result on; after that
            it raises. More than the slowest part takes, compiling included. Where a process ends, the others
            hear of it at once from the operating system; the limit is for machines that fall silent.

    Raises:
        ValueError: a limit that is none; `jax.distributed` is not initialised, so that several processes
            could not know of each other.
    """

    timeout_s: float = 600.0

    def __post_init__(self):
        check_fields(self)
        if not (self.timeout_s > 0 and math.isfinite(self.timeout_s)):
            raise ValueError(f"timeout_s must be above 0 and finite, got {self.timeout_s}")
        if not jax.distributed.is_initialized():
            raise ValueError(
                "hosts need jax.distributed: call jax.distributed.initialize() first, or leave hosts out in "
                "a single process"
            )

    @property
    def index(self) -> int:
        """Of this process, from 0."""
        return jax.process_index()

    @property
    def count(self) -> int:
        """Of processes."""
        return jax.process_count()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.index == 0

    def map(self, function: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
        """function(rows), each process measuring its part of them; all processes get all results.

        Args:
            function: rows (k, ...) -> one array (k, ...); a row's result does not depend on the others'.
            rows: the same in every process.

        Raises:
            HostsError: rows differ between processes, or a process failed, is gone, or is late.
        """
        own = np.array_split(rows, self.count)[self.index]
        told: dict[str, Any] = {"rows": [list(rows.shape), zlib.crc32(np.ascontiguousarray(rows).tobytes())]}
        content, failed = b"", None
        try:
            if len(own):
                found = np.ascontiguousarray(function(own))
                if len(found) != len(own):
                    raise ValueError(f"{len(found)} results for {len(own)} rows")
                told |= {"type": found.dtype.str, "shape": found.shape[1:]}
                content = found.tobytes()
        except Exception as error:  # the others must not wait for what does not come
            failed, told["failed"] = error, f"{type(error).__name__}: {error}"[:500]
        parts = self._exchanged("map", told, content)
        if failed is not None:
            raise failed
        for index, (header, _) in enumerate(parts):
            if "failed" in header:
                raise HostsError(f"process {index} failed ({header['failed']}): {_AGAIN}")
            if header["rows"] != told["rows"]:
                raise HostsError(
                    f"process {index} measures other rows than process {self.index}: give all of them the "
                    "same key, settings and data, on machines of one kind"
                )
        arrays = [
            np.frombuffer(content, header["type"]).reshape(-1, *header["shape"])
            for header, content in parts
            if "type" in header
        ]
        return np.concatenate(arrays) if arrays else np.asarray(function(rows))

    def any(self, flag: bool) -> bool:
        """Whether any process says so: a time limit or a person's wish ends all of them together."""
        return any(header["flag"] for header, _ in self._exchanged("any", {"flag": bool(flag)}))

    def agreed(self, what: str, value: Any) -> None:
        """Raises HostsError unless a value that JSON can hold is the same in every process."""
        own = zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())
        for index, (header, _) in enumerate(self._exchanged("agreed", {"value": own})):
            if header["value"] != own:
                raise HostsError(
                    f"process {index} has another {what} than process {self.index}: give all of them the same"
                )

    def from_first(self, read: Callable[[], bytes | None]) -> bytes | None:
        """What the first process reads; the others read nothing.

        Raises:
            HostsError: the first process failed to; there the error itself.
        """
        content, failed = None, None
        told: dict[str, Any] = {}
        if self.first:
            try:
                content = read()
                told = {"length": None if content is None else len(content)}
            except Exception as error:
                failed, told = error, {"failed": f"{type(error).__name__}: {error}"[:500]}
        header = self._exchanged("from_first", told)[0][0]
        if failed is not None:
            raise failed
        if "failed" in header:
            raise HostsError(f"process 0 failed ({header['failed']}): {_AGAIN}")
        if header["length"] is None:
            return None
        own = np.zeros(header["length"], np.uint8) if content is None else np.frombuffer(content, np.uint8)
        sent = self._waited(lambda: multihost_utils.broadcast_one_to_all(own))
        return np.asarray(sent, np.uint8).tobytes()

    def _exchanged(self, call: str, header: dict[str, Any], content: bytes = b"") -> list[tuple[dict, bytes]]:
        """Each process's header and content, in the order of the processes."""
        first = json.dumps({"call": call, **header}).encode()
        payload = len(first).to_bytes(8, "little") + first + content
        found = []
        for index, whole in enumerate(self.gather(payload)):
            end = 8 + int.from_bytes(whole[:8], "little")
            told = json.loads(whole[8:end])
            if told["call"] != call:
                raise HostsError(
                    f"process {index} is at {told['call']!r}, process {self.index} at {call!r}: give all of "
                    "them the same program and settings"
                )
            found.append((told, whole[end:]))
        return found

    def gather(self, payload: bytes) -> list[bytes]:
        """Everybody's bytes, of any length. All that is sent but for a file goes through here.

        Raises:
            HostsError: a process is gone, or later than `timeout_s`.
        """

        def exchange() -> list[bytes]:
            # Bytes, since JAX would make float32 of float64. Lengths go first: all must send as much.
            lengths = multihost_utils.process_allgather(np.array([len(payload)], np.int32))[:, 0]
            padded = np.frombuffer(payload.ljust(int(lengths.max()), b"\0"), np.uint8)
            everyone = multihost_utils.process_allgather(padded)
            return [row[:n].tobytes() for row, n in zip(everyone, lengths.tolist(), strict=True)]

        found: list[bytes] = self._waited(exchange)
        return found

    def _waited(self, exchange: Callable[[], Any]) -> Any:
        """The outcome of a call that another process may never answer."""
        box: list[Any] = []

        def call() -> None:
            try:
                box.append((exchange(), None))
            except Exception as error:  # of several types, by the backend
                box.append((None, error))

        worker = threading.Thread(target=call, daemon=True)
        worker.start()
        worker.join(self.timeout_s)
        if not box:
            raise HostsError(
                f"a process did not answer for {self.timeout_s:g} s: it hangs, or needs a higher timeout_s; "
                + _AGAIN
            )
        found, error = box[0]
        if error is not None:
            reason = " ".join(str(error).split())
            raise HostsError(f"a process is gone ({reason:.200}): {_AGAIN}") from error
        return found
