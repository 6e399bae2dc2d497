"""The flat program: nesting gone, dead code gone, weights told from activations, names and places right."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import Program
from hwmodel.tracing.program import flatten

IMAGE = jax.ShapeDtypeStruct((2, 3), jnp.float32)
MATRIX = jax.ShapeDtypeStruct((3, 3), jnp.float32)


def names(program: Program) -> list[str]:
    return [eqn.name for eqn in program.equations]


def run(program: Program, params, *inputs):
    """Interprets every equation of the program, weights included."""
    env = dict(program.constants)
    env.update(zip(program.params, jax.tree.leaves(params), strict=True))
    env.update(zip(program.inputs, jax.tree.leaves(inputs), strict=True))
    for eqn in program.equations:
        env.update(zip(eqn.outputs, eqn.bind(*(env[v] for v in eqn.inputs)), strict=True))
    return [env[v] for v in program.outputs]


@jax.custom_vjp
def doubled(x):
    return x * 2.0


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (g,))

CALLS = {
    "jit": jax.jit(lambda x: x * 2.0),
    "nested jit": jax.jit(lambda x: jax.jit(lambda y: y * 2.0)(x)),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": doubled,
    "remat": jax.checkpoint(lambda x: x * 2.0),
    "vmap": jax.vmap(lambda row: row * 2.0),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_are_entered(call):
    def fn(params, x):
        return CALLS[call](x @ params)

    program = flatten(fn, MATRIX, IMAGE)
    assert set(names(program)) <= {"dot_general", "mul", "max"}
    assert len(names(program)) == 2
    params, x = jax.random.normal(jax.random.key(0), (3, 3)), jax.random.normal(jax.random.key(1), (2, 3))
    np.testing.assert_array_equal(run(program, params, x)[0], fn(params, x))


def test_roles_constants_and_producers():
    table = np.arange(3, dtype=np.float32)

    def fn(params, x):
        scale = params["scale"] * 2.0 + table  # of parameters and constants only
        return (x * scale[None]) @ params["w"]

    params = {"scale": jax.ShapeDtypeStruct((3,), jnp.float32), "w": MATRIX}
    program = flatten(fn, params, IMAGE)
    (product,) = [eqn for eqn in program.equations if eqn.name == "dot_general"]
    multiplied, kernel = product.inputs
    assert program.is_weight(kernel)
    assert not program.is_weight(multiplied)
    scale = next(v for v in program.equations[program.producer[multiplied]].inputs if program.is_weight(v))
    assert [program.param_names[i] for i in program.params_behind(scale)] == ["scale"]
    assert [program.param_names[i] for i in program.params_behind(kernel)] == ["w"]
    assert any(np.array_equal(array, table) for array in program.constants.values())
    assert program.values[kernel].elems == 9
    assert program.values[kernel].shape == (3, 3)
    assert program.values[kernel].dtype == np.float32
    x = np.ones((2, 3), np.float32)
    params = {"scale": np.ones(3, np.float32), "w": np.eye(3, dtype=np.float32)}
    np.testing.assert_allclose(run(program, params, x)[0], np.tile(2 + table, (2, 1)), rtol=1e-6)


def test_dead_code_is_dropped_with_its_constants():
    table = np.ones((3, 3), np.float32)

    def fn(params, x):
        jnp.sort(x @ table)  # a primitive that trace does not know, and a constant, for nothing
        return x @ params

    program = flatten(fn, MATRIX, IMAGE)
    assert names(program) == ["dot_general"]
    assert not program.constants


def test_uses_counts_equations_repeats_and_outputs():
    def fn(params, x):
        y = x @ params
        return y + y, y

    program = flatten(fn, MATRIX, IMAGE)
    y = program.equations[0].outputs[0]
    assert program.consumers[y] == (1, 1)
    assert program.uses(y) == 3
    assert program.uses(program.outputs[0]) == 1


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"params": {"stem": {"kernel": MATRIX}}}, ["stem/kernel"]),
        ({"params": {"a": MATRIX}, "batch_stats": {"a": MATRIX}}, ["batch_stats/a", "a"]),
        ([(MATRIX, MATRIX), (MATRIX,)], ["0/0", "0/1", "1/0"]),
        (MATRIX, ["param"]),
        ({"params": MATRIX}, ["params"]),
    ],
)
def test_parameter_names_are_paths(params, expected):
    program = flatten(lambda p, x: x @ sum(jax.tree.leaves(p)), params, IMAGE)
    assert list(program.param_names) == expected


def test_inputs_may_be_trees():
    def fn(params, pair):
        return (pair["a"] + pair["b"]) @ params

    program = flatten(fn, MATRIX, {"a": IMAGE, "b": IMAGE})
    assert len(program.inputs) == 2
    assert not any(program.is_weight(v) for v in program.inputs)


def test_arrays_and_shapes_give_the_same_program():
    def fn(params, x):
        return jax.nn.relu(x @ params)

    abstract = flatten(fn, MATRIX, IMAGE)
    concrete = flatten(fn, np.ones((3, 3), np.float32), np.ones((2, 3), np.float32))
    assert abstract.values == concrete.values
    assert names(abstract) == names(concrete)
    assert [e.inputs for e in abstract.equations] == [e.inputs for e in concrete.equations]


def test_an_equation_knows_the_users_line():
    def fn(params, x):
        y = x @ params
        return jax.nn.relu(y)

    start = inspect.getsourcelines(fn)[1]
    product, relu = flatten(fn, MATRIX, IMAGE).equations
    assert product.where == f"{__file__}:{start + 1}"
    assert relu.where == f"{__file__}:{start + 2}"


CONTROL = {
    "while": lambda p, x: jax.lax.while_loop(lambda c: c.sum() < 0, lambda c: c + 1.0, x),
    "cond": lambda p, x: jax.lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x),
}


@pytest.mark.parametrize("primitive", CONTROL)
def test_control_flow_is_refused_with_its_line(primitive):
    line = inspect.getsourcelines(CONTROL[primitive])[1]
    with pytest.raises(
        ValueError, match=f"primitive '{primitive}' at .*test_program.py:{line} is control flow"
    ):
        flatten(CONTROL[primitive], MATRIX, IMAGE)


def test_parameters_may_stand_anywhere():
    def fn(x, first, second):
        return (x @ first["w"]) @ second["w"]

    weights = {"w": MATRIX}
    program = flatten(fn, IMAGE, weights, weights, params=(1, 2))
    assert program.param_names == ("w", "w")
    assert [program.is_weight(v) for v in (*program.params, *program.inputs)] == [True, True, False]
    nothing_stored = flatten(fn, IMAGE, weights, weights, params=())
    assert len(nothing_stored.inputs) == 3
    assert nothing_stored.params == ()


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((MATRIX, IMAGE), {"params": 2}, "positions of the 2 arguments, got 2"),
        ((MATRIX, IMAGE), {"params": -1}, "positions of the 2 arguments, got -1"),
        ((MATRIX, IMAGE), {"unroll": -1}, "unroll must be at least 0, got -1"),
        (({"a": MATRIX, "act": jnp.tanh}, IMAGE), {}, r"leaf \['act'\] of argument 0 is a .*, no array"),
        ((MATRIX, "image"), {}, "argument 1 is a str, no array"),
        (
            (MATRIX, jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 3"), jnp.float32)),
            {},
            r"leaf \(itself\) of argument 1 has shape \(b, 3\); trace needs numbers",
        ),
    ],
)
def test_bad_arguments_are_named(args, options, message):
    with pytest.raises(ValueError, match=message):
        flatten(lambda p, x: x, *args, **options)


WEIGHT_ON_THE_LEFT = {
    "matrix": (lambda p, x: p @ x, (4, 3), (3, 5)),
    "vector": (lambda p, x: p @ x, (4, 3), (3,)),
    "batched": (lambda p, x: jnp.einsum("bij,bjk->bik", p, x), (2, 4, 3), (2, 3, 5)),
    "many axes": (lambda p, x: jnp.einsum("ijab,xaby->iyjx", p, x), (4, 2, 3, 5), (2, 3, 5, 6)),
    "vmap": (lambda p, x: jax.vmap(lambda row: p @ row)(x), (4, 3), (5, 3)),
}


@pytest.mark.parametrize("case", WEIGHT_ON_THE_LEFT)
def test_products_have_the_weight_on_the_right(case):
    fn, *shapes = WEIGHT_ON_THE_LEFT[case]
    w, x = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    program = flatten(fn, w, x)
    (product,) = [eqn for eqn in program.equations if eqn.name == "dot_general"]
    assert [program.is_weight(v) for v in product.inputs] == [False, True]
    np.testing.assert_allclose(run(program, w, x)[0], fn(w, x), rtol=1e-5, atol=1e-5)
    if case == "vmap":  # the transpositions undo each other
        assert names(program) == ["dot_general"]


def test_a_barrier_vanishes():
    program = flatten(lambda p, x: jax.lax.optimization_barrier((x, p))[0] @ p, MATRIX, IMAGE)
    assert names(program) == ["dot_general"]
