"""What the commands share: one line for every error that was to be expected, and for every warning."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from .compiling import programs_counted, programs_kept


def run_app(app: typer.Typer, name: str) -> None:
    """Runs a console script; every expected error is one line and exit code 2.

    Compiled programs are kept between runs, and counted in the last line.
    """
    try:
        with programs_kept(say), programs_counted(say):
            app(standalone_mode=True)
    except (ValueError, ImportError) as error:
        say(f"{name}: error: {' '.join(str(error).split())}")
        raise SystemExit(2) from None
    except OSError as error:
        say(f"{name}: error: {error.filename or 'a file'}: {error.strerror or error}")
        raise SystemExit(2) from None


def say(line: str) -> None:
    """On stderr; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def warnings_said() -> Iterator[None]:
    """Inside, a UserWarning is a line "note: ..." on stderr, not a place in the code."""

    def show(message: object, category: type[Warning], *rest: object) -> None:
        say(f"note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]  # catch_warnings puts the old one back
        yield


def check_new(*files: Path | None, suffix: str = "") -> None:
    """Raises ValueError: a file that is to be written exists, its folder does not, or another suffix."""
    for file in files:
        if file is None:
            continue
        if file.exists():
            raise ValueError(f"{file} exists: give another name")
        if not file.absolute().parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.absolute().parent}: make it first")
        if suffix and file.suffix.lower() != suffix:
            raise ValueError(f"{file} must end in {suffix}")
