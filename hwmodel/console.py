"""What the console scripts share: one line for every error that was to be expected, and options as text."""

import sys
from collections.abc import Sequence

import typer

from .chip import Rate
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


def parse_rates(texts: Sequence[str] | None) -> list[Rate] | None:
    """Rates of compute from WxA=OPS_PER_S, the values of `--rate`; None without any.

    Raises:
        ValueError: another form, or numbers that no rate can have.
    """
    return [_rate(text) for text in texts] if texts else None


def _rate(text: str) -> Rate:
    pair, _, speed = text.partition("=")
    weight_bits, _, activation_bits = pair.partition("x")
    try:
        return Rate(int(weight_bits), int(activation_bits), float(speed), source="--rate")
    except ValueError:
        raise ValueError(f"--rate must be WxA=OPS_PER_S, such as 8x8=1e9, got {text!r}") from None
