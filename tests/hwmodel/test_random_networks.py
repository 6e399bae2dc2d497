"""Random small networks: whatever trace makes of them, running it gives the function back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace
from nemojax.interpreter import execute, fold

pytestmark = pytest.mark.long  # `make test-long`; CI runs them

ACTIVATIONS = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
AFFINE = {"scale": lambda x, c: x * c, "shift": lambda x, c: x + c, "reverse": lambda x, c: c - x}
WINDOWS = {"max": (-jnp.inf, jax.lax.max), "average": (0.0, jax.lax.add)}


def draw(seed):
    """Steps of a network, each (name, option), and one parameter or None a step."""
    rng = np.random.default_rng(seed)
    steps, params, channels = [], [], 4

    def add(name, option=None, shape=None):
        steps.append((name, option))
        fan_in = 1 if shape is None else np.prod(shape[:-1])
        params.append(None if shape is None else np.float32(rng.normal(size=shape) / np.sqrt(fan_in)))

    for _ in range(int(rng.integers(4, 7))):
        groups, kernel, stride = (int(rng.choice(v)) for v in ([1, 2, channels], [1, 3, 5], [1, 1, 2]))
        out = channels if groups == channels else int(rng.choice([4, 8]))
        pad = "SAME" if kernel > 1 else "VALID"
        add("conv", (stride, pad, groups), (kernel, kernel, channels // groups, out))
        channels = out
        for _ in range(int(rng.integers(0, 4))):
            add(str(rng.choice(list(AFFINE))), None, (channels,))
        for name, option, chance in (
            ("spatial", None, 0.2),
            ("keep", None, 0.5),
            ("act", str(rng.choice(list(ACTIVATIONS))), 0.6),
            ("add", None, 0.6),
            ("act", "relu", 0.3),
            ("pool", str(rng.choice(list(WINDOWS))), 0.2),
        ):
            if rng.random() < chance:
                add(name, option)
    add("dense", None, (channels, 5))
    add("shift", None, (5,))
    return steps, params


def network(steps, counts):
    """apply(params, x) -> (logits, a tensor from inside); a call appends the layers' MACs to `counts`."""

    def apply(params, x):
        kept = [x]
        for (name, option), p in zip(steps, params, strict=True):
            if name == "conv":
                stride, pad, groups = option
                x = jax.lax.conv_general_dilated(
                    x,
                    p,
                    (stride, stride),
                    pad,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups,
                )
                counts.append(x.size * p[..., 0].size)
            elif name == "dense":
                x = jnp.mean(x, (1, 2)) @ p
                counts.append(x.size * p.shape[0])
            elif name in AFFINE:
                x = AFFINE[name](x, p.reshape((1,) * (x.ndim - 1) + (-1,)))
            elif name == "spatial":
                x = x * jnp.cos(jnp.arange(x.shape[1], dtype=jnp.float32))[None, :, None, None]
            elif name == "act":
                x = ACTIVATIONS[option](x)
            elif name == "keep":
                kept.append(x)
            elif name == "add":
                fitting = [k for k in kept if k.shape == x.shape]
                x = x + fitting[-1] if fitting else x
            elif min(x.shape[1:3]) > 1:  # pool
                x = jax.lax.reduce_window(x, *WINDOWS[option], (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        counts.append(0)  # the end of a call
        return x, kept[-1]

    return apply


@pytest.mark.parametrize("seed", range(7))
def test_running_the_workload_gives_the_function_back(seed):
    steps, params = draw(seed)
    counts: list[int] = []
    apply, x = network(steps, counts), jax.random.normal(jax.random.key(seed), (2, 11, 9, 4))
    work = trace(apply, params, x)
    plain = trace(apply, params, x, fusion=False)
    for traced in (work, plain):
        assert [op.macs for op in traced.operations if op.w_elems] == counts[: counts.index(0)]
    assert len(plain.operations) >= len(work.operations)

    @jax.jit
    def run(params, x):
        folded, unfused = fold(work, params), fold(plain, params)
        return (
            apply(params, x),
            execute(work, folded, (x,), lowering="xla"),
            execute(work, folded, (x,), lowering="cpu"),
            execute(plain, unfused, (x,), lowering="cpu"),
        )

    expected, *found = run(params, x)
    assert np.abs(expected[0]).max() > 1e-3
    for outputs in found:
        for output, right in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, right, atol=1e-5 * np.abs(right).max(), rtol=0)


@pytest.mark.parametrize("seed", range(25))
def test_the_structure_is_sound(seed):
    steps, params = draw(seed)
    apply = network(steps, [])
    shapes = jax.eval_shape(lambda p: p, params)
    one, three = (trace(apply, shapes, jax.ShapeDtypeStruct((n, 11, 9, 4), jnp.float32)) for n in (1, 3))
    assert one.point_names == three.point_names
    assert [op.equations for op in one.operations] == [op.equations for op in three.operations]
    assert [3 * op.macs for op in one.operations] == [op.macs for op in three.operations]
    program = one.program
    joined = [i for op in one.operations for i in op.equations]
    assert len(set(joined)) == len(joined)  # an equation belongs to one operation
    for op in one.operations:  # only the last value of an operation is seen outside
        *inner, _ = (program.equations[i].outputs[0] for i in op.equations)
        for value in inner:
            assert program.uses(value) == 1
            assert program.consumers[value][0] in op.equations
    for point in one.points:
        assert point.elems == program.values[point.value].elems
        assert program.is_weight(point.value) == point.is_weight
    for op in one.operations:
        if op.input_point >= 0 and op.w_elems:
            assert program.equations[op.equations[0]].inputs[0] in (
                one.points[op.input_point].value,  # itself, or what only chooses among its values
                *(program.equations[o.equations[-1]].outputs[0] for o in one.operations if o.kind == "pool"),
            )
