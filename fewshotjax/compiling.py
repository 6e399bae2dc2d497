"""Compiled programs of a console script: kept for the next run, and counted for its last line.

Libraries keep nothing: whoever imports these packages sets JAX's cache as JAX documents it.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

SWITCH = "FRUGALJAX_COMPILE_CACHE"  # 0: nothing is kept
MOST_BYTES = 2**30  # of the folder; what was used least recently goes first
LEAST_S = 0.0  # a command runs over a hundred small programs, which take a third of its time
_COMPILED = "/jax/core/compile/backend_compile_duration"  # of each program, the cached ones too
_FOUND = "/jax/compilation_cache/cache_hits"


def cache_folder() -> Path:
    """Where compiled programs are kept, by the platform's convention for caches."""
    if os.environ.get("XDG_CACHE_HOME"):
        system = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        system = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        system = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        system = Path.home() / ".cache"
    return system / "frugaljax" / "compiled"


@contextmanager
def programs_kept(say: Callable[[str], Any]) -> Iterator[None]:
    """Inside, programs are read from and written to `cache_folder()`; JAX's own settings go first.

    A folder of `JAX_COMPILATION_CACHE_DIR`, a size of `JAX_COMPILATION_CACHE_MAX_SIZE` and a time of
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` stay as they are. A folder that cannot be written is said.

    Raises:
        ValueError: `FRUGALJAX_COMPILE_CACHE` is neither 0 nor 1.
    """
    switch = os.environ.get(SWITCH, "1")
    if switch not in ("0", "1"):
        raise ValueError(
            f"{SWITCH} must be 0 (keep no compiled programs) or 1, got {switch!r}; "
            "JAX_COMPILATION_CACHE_DIR names a folder"
        )
    if switch == "0" or jax.config.values["jax_compilation_cache_dir"] or not _writable(cache_folder(), say):
        yield
        return
    wanted: dict[str, Any] = {"jax_compilation_cache_dir": str(cache_folder())}
    if jax.config.values["jax_compilation_cache_max_size"] == -1:
        wanted["jax_compilation_cache_max_size"] = MOST_BYTES
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        wanted["jax_persistent_cache_min_compile_time_secs"] = LEAST_S
    before = {name: jax.config.values[name] for name in wanted}
    try:
        _configure(wanted)
        yield
    finally:
        _configure(before)


@contextmanager
def programs_counted(say: Callable[[str], Any]) -> Iterator[None]:
    """Says at the end how many programs were compiled, in how many seconds; nothing where none was, or
    where the command failed, whose one line is its error.
    """
    seconds: list[float] = []  # threads append at once
    found: list[str] = []

    def on_time(event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            seconds.append(duration_secs)

    def on_event(event: str, **_: Any) -> None:
        if event == _FOUND:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(on_time)
    jax.monitoring.register_event_listener(on_event)
    ended = False
    try:
        yield
        ended = True
    except SystemExit as stop:  # as console scripts end
        ended = not stop.code
        raise
    finally:
        jax.monitoring.unregister_event_duration_listener(on_time)
        jax.monitoring.unregister_event_listener(on_event)
        if seconds and ended:
            programs = "program" if len(seconds) == 1 else "programs"
            say(f"compiled {len(seconds)} {programs} in {sum(seconds):.1f} s ({len(found)} from the cache)")


def _configure(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks at the folder once


def _writable(folder: Path, say: Callable[[str], Any]) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # programs are run as they are found
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        say(f"compiled programs are not kept: {folder}: {error.strerror or error}")
        return False
