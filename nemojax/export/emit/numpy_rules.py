"""Primitives of softmax, norms and activation functions in NumPy: few equations, nothing compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

Rule = Callable[..., np.ndarray]  # (parameters, *operands)


def _plain(fn: Callable[..., Any]) -> Rule:
    return lambda params, *operands: fn(*operands)


def _same(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    return x


def _broadcast_in_dim(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for size, axis in zip(x.shape, params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _select_n(params: Mapping[str, Any], which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    return np.where(which.astype(bool), cases[1], cases[0])


NUMPY: dict[str, Rule] = {
    **{
        name: _plain(fn)
        for name, fn in {
            "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
            "max": np.maximum, "min": np.minimum, "pow": np.power, "neg": np.negative, "abs": np.abs,
            "sign": np.sign, "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1,
            "tanh": np.tanh, "sqrt": np.sqrt, "square": np.square, "logistic": special.expit,
            "erf": special.erf, "erfc": special.erfc, "gt": np.greater, "ge": np.greater_equal, "lt": np.less,
            "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "is_finite": np.isfinite,
            "rsqrt": lambda x: 1 / np.sqrt(x), "clamp": lambda low, x, high: np.clip(x, low, high),
            "exp2": np.exp2,
        }.items()
    },
    **dict.fromkeys(("copy", "stop_gradient", "convert_element_type"), _same),
    "integer_pow": lambda params, x: x ** float(params["y"]),
    "reduce_sum": lambda params, x: x.sum(tuple(params["axes"])),
    "reduce_max": lambda params, x: x.max(tuple(params["axes"])),
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: x.squeeze(tuple(params["dimensions"])),
    "broadcast_in_dim": _broadcast_in_dim,
    "select_n": _select_n,
}  # fmt: skip
ELEMENTWISE = frozenset(NUMPY) - {"reduce_sum", "reduce_max", "reshape", "squeeze", "broadcast_in_dim"}
