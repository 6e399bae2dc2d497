"""Any JAX function with its convolutions lowered as this backend likes them, for training on a CPU.

`lowered(f)` reads the jaxpr of f and runs it again, every convolution of NHWC images as `lowering` has it,
whatever library wrote it, with the gradients of conv_gradients.py. All else is left as it stands, custom
derivatives included. The result is differentiable in reverse mode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from .conv_gradients import NHWC, dense, depthwise, pointwise
from .lowering import Lowering, default_lowering, grouped

_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def lowered(fn: Callable[..., Any], lowering: Lowering | None = None) -> Callable[..., Any]:
    """The same function, with convolutions run as `lowering` says; equal to rounding.

    Args:
        fn: of pytrees of arrays, to a pytree of arrays; anything else is bound beforehand, as in
            `lowered(functools.partial(model.apply, train=True, mutable=["batch_stats"]))`.
        lowering: None: what is fast on this backend. With "xla" `fn` is left as it is.

    Convolutions in jit, remat, scan and custom-derivative calls are reached (of the latter the custom rule
    is then replaced by the derivative of its body); those in cond, while and shard_map run as they are. The
    function is traced at every call, so call it under jit.
    """
    lowering = lowering or default_lowering()
    if lowering == "xla":
        return fn

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        leaves = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return run


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of `jaxpr`, equation by equation."""
    env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _step(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _step(eqn: Any, values: list[Any]) -> Sequence[Any]:
    name, body = eqn.primitive.name, _body(eqn)
    if name == "conv_general_dilated":
        return [_convolution(eqn, *values)]
    if body is not None and _convolves(body):
        inner, consts = getattr(body, "jaxpr", body), getattr(body, "consts", ())
        if name in _CALLS:
            return _evaluate(inner, consts, values)
        if name in ("checkpoint", "remat", "remat2"):
            again = jax.checkpoint(
                lambda *args: _evaluate(inner, consts, args),
                policy=eqn.params["policy"],
                prevent_cse=eqn.params["prevent_cse"],
            )
            return again(*values)
        if name == "scan":
            return _scan(eqn.params, inner, consts, values)
    return _as_it_stands(eqn, values)


def _convolution(eqn: Any, x: Any, w: Any) -> Any:
    p = eqn.params
    dims, dilations = p["dimension_numbers"], {*p["rhs_dilation"], *p["lhs_dilation"]}
    layouts = (dims.lhs_spec, dims.rhs_spec, dims.out_spec)
    groups, stride, pad = p["feature_group_count"], tuple(p["window_strides"]), tuple(p["padding"])
    crops = any(min(ends) < 0 for ends in pad)
    if layouts != NHWC or dilations != {1} or p["batch_group_count"] != 1 or crops:
        return _as_it_stands(eqn, [x, w])[0]
    if groups == 1 and w.shape[:2] == (1, 1) and set(pad) == {(0, 0)}:
        return pointwise(x[:, :: stride[0], :: stride[1]], w)
    if groups == 1:
        return dense(x, w, stride, pad)
    if groups == x.shape[3] == w.shape[3]:
        return depthwise(x, w, stride, pad)
    return lowered(lambda x, w: grouped(x, w, groups, stride, pad), "cpu")(x, w)


def _scan(p: Any, inner: Any, consts: Sequence[Any], values: list[Any]) -> list[Any]:
    first, last = p["num_consts"], p["num_consts"] + p["num_carry"]

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = _evaluate(inner, consts, [*values[:first], *carry, *xs])
        return outs[: p["num_carry"]], outs[p["num_carry"] :]

    carry, ys = jax.lax.scan(
        body, values[first:last], values[last:], p["length"], p["reverse"], unroll=p["unroll"]
    )
    return [*carry, *ys]


def _as_it_stands(eqn: Any, values: list[Any]) -> Sequence[Any]:
    """The equation by itself; custom derivatives stay."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # jax before 0.10, and since
    out = eqn.primitive.bind(*functions, *values, **params)
    return out if eqn.primitive.multiple_results else [out]


def _body(eqn: Any) -> Any:
    """The jaxpr that the equation runs, or None."""
    return next((eqn.params[key] for key in _BODIES if hasattr(eqn.params.get(key), "eqns")), None) or next(
        (eqn.params[key] for key in _BODIES if hasattr(eqn.params.get(key), "jaxpr")), None
    )


def _convolves(body: Any) -> bool:
    """Whether a convolution is reached from `body`."""
    for eqn in getattr(body, "jaxpr", body).eqns:
        if eqn.primitive.name == "conv_general_dilated":
            return True
        inner = _body(eqn)
        if inner is not None and _convolves(inner):
            return True
    return False
