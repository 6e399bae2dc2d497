"""Which equations join which operation, where points stand, and what is refused.

Only the structure is looked at; tests/nemojax/test_interpreter.py runs such functions and compares.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import Workload, trace

X = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32)
VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lift(vector):
    return vector[None, None, None]


def shapes(work: Workload) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, kind, names of parents) of every operation."""
    return [
        (op.name, op.kind, tuple(work.operations[edge.producer].name for edge in op.parents))
        for op in work.operations
    ]


def activations(work: Workload) -> list[str]:
    return [point.name for point in work.points if not point.is_weight]


def feeding(work: Workload) -> dict[str, str]:
    """operation -> the point that feeds it."""
    return {op.name: work.points[op.input_point].name for op in work.operations if op.input_point >= 0}


def test_bias_norm_and_activation_join_the_convolution():
    def fn(p, x):
        y = (conv(x, p["a"]) + lift(p["bias"]) - lift(p["mean"])) * lift(p["scale"] / p["std"]) + lift(
            p["shift"]
        )
        y = jnp.tanh(jax.nn.relu6(y)) * 3.0
        return conv(y, p["b"])

    params = dict.fromkeys(("bias", "mean", "scale", "std", "shift"), VECTOR) | {"a": KERNEL, "b": KERNEL}
    work = trace(fn, params, X)
    assert shapes(work) == [("a", "conv", ()), ("b", "conv", ("a",))]
    assert [(step.op, step.reversed) for step in work.operations[0].affine] == [
        ("add", False),
        ("sub", False),
        ("mul", False),
        ("add", False),
    ]
    assert activations(work) == ["input", "a.activation"]
    assert feeding(work) == {"a": "input", "b": "a.activation"}
    assert [op.bias_elems for op in work.operations] == [4, 0]
    tail = work.points[work.point_names.index("a.activation")]
    assert (tail.operation, tail.elems, tail.channel_axis) == (0, 2 * 8 * 8 * 4, 3)
    last = work.program.equations[work.operations[0].equations[-1]]
    assert last.name == "mul"
    assert last.outputs[0] == tail.value


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda y, c: c - y, [("sub", True)]),
        (lambda y, c: c * y, [("mul", True)]),
        (lambda y, c: c + y, [("add", True)]),
        (lambda y, c: y / c, [("div", False)]),
        (lambda y, c: y * 2.0, [("mul", False)]),
        (lambda y, c: c / y, []),  # not affine: joins, but is not folded
        (lambda y, c: y + jnp.arange(8.0)[None, :, None, None], []),  # varies along the image
        (lambda y, c: jax.nn.relu(y) + c, []),  # behind a non-linearity
    ],
)
def test_affine_steps(step, expected):
    work = trace(
        lambda p, x: conv(step(conv(x, p["a"]), lift(p["c"])), p["b"]),
        {"a": KERNEL, "b": KERNEL, "c": VECTOR},
        X,
    )
    assert shapes(work) == [("a", "conv", ()), ("b", "conv", ("a",))]
    assert [(s.op, s.reversed) for s in work.operations[0].affine] == expected
    assert activations(work)[0] == "input"
    assert len(activations(work)) == 2


def bias_read_twice(p, x):
    y = conv(x, p["a"])
    return conv(y + lift(p["c"]), p["b"]) + conv(y, p["b"])


def norm_read_twice(p, x):
    y = conv(x, p["a"]) * lift(p["c"])
    return conv(jax.nn.relu(y), p["b"]) + conv(jnp.tanh(y), p["b"])


def relu_read_twice(p, x):
    y = jax.nn.relu(conv(x, p["a"]))
    return conv(y * lift(p["c"]), p["b"]) + conv(y, p["b"])


def output_read_too(p, x):
    y = conv(x, p["a"])
    return conv(jax.nn.relu(y + lift(p["c"])), p["b"]), y


def view_read_twice(p, x):
    y = conv(x, p["a"]).reshape(2, 64, 4)
    return conv((y + p["c"][None, None]).reshape(2, 8, 8, 4), p["b"]) + conv(y.reshape(2, 8, 8, 4), p["b"])


UNFUSED = {  # function: operations, activation points
    bias_read_twice: (
        [("a", "conv", ()), ("norm", "norm", ("a",)), ("b", "conv", ("norm",)), ("b_2", "conv", ("a", "b"))],
        ["input", "a.linear", "norm.activation", "b.linear", "b_2.linear"],
    ),
    norm_read_twice: (
        [
            ("a", "conv", ()),
            ("act", "act", ("a",)),
            ("b", "conv", ("act",)),
            ("act_2", "act", ("a",)),
            ("b_2", "conv", ("act_2", "b")),
        ],
        ["input", "a.linear", "act.activation", "b.linear", "act_2.activation", "b_2.linear"],
    ),
    relu_read_twice: (
        [("a", "conv", ()), ("norm", "norm", ("a",)), ("b", "conv", ("norm",)), ("b_2", "conv", ("a", "b"))],
        ["input", "a.activation", "norm.activation", "b.linear", "b_2.linear"],
    ),
    output_read_too: (
        [("a", "conv", ()), ("norm", "norm", ("a",)), ("b", "conv", ("norm",))],
        ["input", "a.linear", "norm.activation"],
    ),
    view_read_twice: (
        [("a", "conv", ()), ("norm", "norm", ("a",)), ("b", "conv", ("norm",)), ("b_2", "conv", ("a", "b"))],
        ["input", "a.linear", "norm.activation", "b.linear", "b_2.linear"],
    ),
}


@pytest.mark.parametrize("fn", UNFUSED, ids=lambda fn: fn.__name__)
def test_nothing_fuses_across_a_second_reader(fn):
    work = trace(fn, {"a": KERNEL, "b": KERNEL, "c": VECTOR}, X)
    expected, points = UNFUSED[fn]
    assert shapes(work) == expected
    assert activations(work) == points


def test_a_residual_add_joins_the_later_producer():
    def fn(p, x):
        y = jax.nn.relu(conv(x, p["a"]))
        z = conv(y, p["b"])
        return conv(y + z, p["c"])  # the earlier one on the left

    work = trace(fn, dict.fromkeys("abc", KERNEL), X)
    assert shapes(work) == [("a", "conv", ()), ("b", "conv", ("a", "a")), ("c", "conv", ("b",))]
    assert activations(work) == ["input", "a.activation", "b.linear", "b.sum"]
    assert feeding(work) == {"a": "input", "b": "a.activation", "c": "b.sum"}
    inner, total = (work.points[work.point_names.index(name)] for name in ("b.linear", "b.sum"))
    add = work.program.equations[work.program.producer[total.value]]
    assert add.name == "add"
    assert inner.value in add.inputs


def test_two_residual_adds_and_a_relu():
    def fn(p, x):
        a, b = conv(x, p["a"]), conv(x, p["b"])
        return conv(jax.nn.relu(conv(x, p["c"]) + a + b), p["d"])

    work = trace(fn, dict.fromkeys("abcd", KERNEL), X)
    assert shapes(work) == [
        ("a", "conv", ()),
        ("b", "conv", ()),
        ("c", "conv", ("a", "b")),
        ("d", "conv", ("c",)),
    ]
    assert activations(work) == ["input", "a.linear", "b.linear", "c.linear", "c.sum", "c.activation"]
    assert feeding(work)["d"] == "c.activation"


def test_activations_on_both_sides_of_an_add_get_names_of_their_own():
    def fn(p, x):
        return conv(jax.nn.relu(x + jax.nn.relu(conv(x, p["a"]))), p["b"])

    work = trace(fn, dict.fromkeys("ab", KERNEL), X)
    assert activations(work) == ["input", "a.activation", "a.activation_2"]
    assert feeding(work) == {"a": "input", "b": "a.activation_2"}


ADDS_ALONE = {
    "both read elsewhere": lambda p, x: (lambda y, z: (conv(y + z, p["c"]), y, z))(
        conv(x, p["a"]), conv(x, p["b"])
    ),
    "the same twice": lambda p, x: (lambda y: conv(y + y, p["c"]))(conv(x, p["a"])),
    "an input": lambda p, x: conv(x + x, p["c"]),
    "a pooling": lambda p, x: conv(
        jnp.mean(x, (1, 2), keepdims=True) + jnp.mean(conv(x, p["a"]), (1, 2), keepdims=True), p["c"]
    ),
}


@pytest.mark.parametrize("case", ADDS_ALONE)
def test_an_add_that_cannot_join_is_an_operation(case):
    work = trace(ADDS_ALONE[case], dict.fromkeys("abc", KERNEL), X)
    (add,) = [op for op in work.operations if op.kind == "add"]
    assert len(add.parents) + (add.ext_in > 0) * 2 == 2
    assert feeding(work)["c"] == "add.sum"
    assert (add.macs, add.o_elems, add.w_elems) == (add.o_elems, add.o_elems, 0)


def test_norms_and_activations_alone():
    """Pre-activation blocks: norm and relu stand before the convolution, behind a value that others read."""

    def fn(p, x):
        y = jax.nn.relu(x * lift(p["scale"]) + lift(p["shift"]))
        return x + conv(y, p["a"])

    work = trace(fn, {"scale": VECTOR, "shift": VECTOR, "a": KERNEL}, X)
    assert shapes(work) == [("norm", "norm", ()), ("a", "conv", ("norm",))]
    assert [op.bias_elems for op in work.operations] == [8, 0]  # both vectors are stored as they are
    assert [op.ext_in for op in work.operations] == [512, 512]
    assert activations(work) == ["input", "norm.activation", "a.linear"]


def test_a_constant_that_widens_its_operand_is_no_bias():
    params = {"w": jax.ShapeDtypeStruct((4, 1), jnp.float32), "c": jax.ShapeDtypeStruct((1, 5), jnp.float32)}
    work = trace(lambda p, x: x @ p["w"] + p["c"], params, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert shapes(work) == [("w", "dense", ()), ("norm", "norm", ("w",))]
    assert work.column("o_elems").tolist() == [2, 10]
    assert work.operations[1].ofm == (1, 1, 5)


def test_without_fusion_every_equation_is_an_operation():
    def fn(p, x):
        y = jax.nn.relu6(conv(x, p["a"]) * lift(p["c"]) + lift(p["c"])).reshape(2, 8, 8, 4)
        return conv(y + x, p["b"])

    work = trace(fn, {"a": KERNEL, "b": KERNEL, "c": VECTOR}, X, fusion=False)
    assert [op.kind for op in work.operations] == ["conv", "norm", "norm", "act", "act", "add", "conv"]
    assert all(op.affine == () for op in work.operations)
    assert activations(work)[-2:] == ["act_2.activation", "add.sum"]


PASSES = {  # passes: kinds of what the function below makes
    "all": ["conv", "conv"],
    ("affine", "activation"): ["conv", "conv", "add"],
    ("affine", "residual"): ["conv", "act", "conv"],
    ("activation", "residual"): ["conv", "norm", "conv"],
    "residual": ["conv", "norm", "act", "conv"],
    "none": ["conv", "norm", "act", "conv", "add"],
}


@pytest.mark.parametrize("passes", PASSES)
def test_passes_are_switched_one_by_one(passes):
    def fn(p, x):
        return conv(jnp.tanh(conv(x, p["a"]) + lift(p["c"])), p["b"]) + x

    params = {"a": KERNEL, "b": KERNEL, "c": VECTOR}
    assert [op.kind for op in trace(fn, params, X, fusion=passes).operations] == PASSES[passes]


def test_a_network_without_operations():
    work = trace(lambda p, x: x.reshape(2, -1), {}, X)
    assert (work.operations, work.points) == ((), ())
    assert "0 operations" in work.summary()


REFUSED = {
    "sort": lambda p, x: jnp.sort(conv(x, p)),
    "cumsum": lambda p, x: jnp.cumsum(conv(x, p), 1),
    "top_k": lambda p, x: jax.lax.top_k(conv(x, p), 2)[0],
    "fft": lambda p, x: jnp.abs(jnp.fft.fft(x)),
}


@pytest.mark.parametrize("primitive", REFUSED)
def test_what_is_not_known_is_refused_by_name_and_line(primitive):
    with pytest.raises(ValueError, match=f"{primitive}.*unknown='elementwise'") as refusal:
        trace(REFUSED[primitive], KERNEL, X)
    line = REFUSED[primitive].__code__.co_firstlineno
    assert f"test_trace.py:{line}" in str(refusal.value)


@pytest.mark.parametrize("primitive", ["sort", "cumsum"])
def test_what_is_not_known_may_be_counted_as_element_wise(primitive):
    work = trace(REFUSED[primitive], KERNEL, X, unknown="elementwise")
    assert shapes(work) == [("param", "conv", ()), ("other", "other", ("param",))]
    assert [op.macs for op in work.operations][1] == 2 * 8 * 8 * 4


def test_an_unknown_primitive_may_have_several_outputs():
    work = trace(lambda p, x: jax.lax.top_k(conv(x, p), 2), KERNEL, X, unknown="elementwise")
    assert work.operations[1].o_elems == 2 * (2 * 8 * 8 * 2)
    assert work.operations[1].is_output


@pytest.mark.parametrize(
    ("option", "message"),
    [({"unknown": "ignore"}, "unknown must be"), ({"fusion": ("affine", "relu")}, "fusion knows the passes")],
)
def test_unknown_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        trace(lambda p, x: conv(x, p), KERNEL, X, **option)


def test_an_output_without_an_input_is_refused():
    with pytest.raises(ValueError, match="does not depend on its inputs"):
        trace(lambda p, x: (conv(x, p), p * 2.0), KERNEL, X)


def test_traces_agree_field_by_field():
    """Twice the same call, and arrays in place of shapes."""

    def fn(p, x):
        return jax.nn.relu(conv(x, p["a"]) + lift(p["c"]))

    shaped = {"a": KERNEL, "c": VECTOR}
    arrays = {"a": np.ones((3, 3, 4, 4), np.float32), "c": np.ones(4, np.float32)}
    works = [trace(fn, shaped, X), trace(fn, shaped, X), trace(fn, arrays, np.ones(X.shape, np.float32))]
    assert works[0].operations == works[1].operations == works[2].operations
    assert works[0].points == works[1].points == works[2].points
