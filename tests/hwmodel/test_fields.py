"""Fields against their annotations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from jaxtyping import Float

from hwmodel.fields import check_fields


class Pair(NamedTuple):
    name: str
    share: float


PAIR = Pair("a", 0.5)


@dataclass(frozen=True)
class Inner:
    x: int = 0


@dataclass(frozen=True)
class Settings:
    steps: int = 1
    rate: float = 0.5
    deep: bool = False
    name: str = "a"
    kind: Literal["a", "b"] = "a"
    least: int | None = None
    widths: tuple[int, ...] = (1, 2)
    ends: tuple[float, str] = (0.0, "x")
    numbers: float | Sequence[float] = 1.0
    table: Mapping[str, int] | None = None
    function: Callable[[int], int] | None = None
    array: Float[np.ndarray, " n"] | None = None
    pair: Pair = PAIR
    inner: Inner = Inner()
    free: Any = None

    def __post_init__(self):
        check_fields(self, "settings.")


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    "given",
    [
        {"steps": np.int64(3), "rate": 1, "deep": np.bool_(True), "least": 4},
        {"rate": np.float32(0.5)},
        {"rate": float("inf")},
        {"widths": [1, 2], "ends": (1, "y"), "numbers": [1, 2.5]},
        {"numbers": np.ones(3), "table": {}, "function": len, "array": np.zeros(2)},
        {"pair": ("b", 1), "kind": "c", "free": object()},  # what a Literal may be is the class's to say
    ],
)
def test_what_fits(given):
    Settings(**given)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "many"}, r"settings\.steps must be a whole number, got 'many'"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"rate": float("nan")}, "rate must be a number, got nan"),
        ({"rate": 10**400}, "rate must be a number, got 1000"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"deep": 1}, "deep must be True or False, got 1"),
        ({"name": b"a"}, "name must be text"),
        ({"kind": 3}, "kind must be 'a' or 'b', got 3"),
        ({"least": "x"}, "least must be a whole number or None, got 'x'"),
        ({"widths": 5}, r"widths must be a tuple \(a whole number each\), got 5"),
        ({"widths": (1, "a")}, "widths must be a tuple"),
        ({"ends": (1.0,)}, r"ends must be a tuple \(a number, text\)"),
        ({"numbers": ["a"]}, "numbers must be a number or a sequence"),
        ({"numbers": "ab"}, "numbers must be a number or a sequence"),
        ({"table": []}, "table must be a mapping or None"),
        ({"function": 3}, "function must be a function or None"),
        ({"array": np.float32(1)}, "array must be an array or None"),
        ({"pair": ("a", "b")}, "pair must be of type Pair"),
        ({"inner": {}}, "inner must be of type Inner"),
        ({"name": np.full((2, 2), np.nan)}, r"got array\(\[\[nan, nan\], \[nan, nan\]\]\)"),
    ],
)
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        Settings(**given)
    assert "\n" not in str(caught.value)
