"""What moves elements without computing: slices, joins, transpositions, lookups, and views that vanish."""

import jax
import jax.numpy as jnp
import pytest

from hwmodel import Edge, trace

X = jax.ShapeDtypeStruct((2, 6, 8), jnp.float32)
MATRIX = jax.ShapeDtypeStruct((8, 8), jnp.float32)
IDS = jax.ShapeDtypeStruct((2, 6), jnp.int32)
TABLE = jax.ShapeDtypeStruct((100, 8), jnp.float32)


def shapes(work):
    return [
        (op.kind, tuple(work.operations[e.producer].kind for e in op.parents), op.o_elems)
        for op in work.operations
    ]


MOVES = {  # function of a dense layer's output: elements read, elements out
    "transpose": (lambda y: y.transpose(0, 2, 1), 96, 96),
    "slice": (lambda y: y[:, 1:4], 48, 48),
    "strided slice": (lambda y: y[..., ::2], 48, 48),
    "dynamic slice": (lambda y: jax.lax.dynamic_slice(y, (0, 1, 0), (2, 2, 8)), 32, 32),
    "reverse": (lambda y: y[:, ::-1], 96, 96),
    "pad": (lambda y: jnp.pad(y, ((0, 0), (1, 1), (0, 0))), 96, 128),
    "tile": (lambda y: jnp.tile(y, (1, 2, 1)), 96, 192),
    "repeat": (lambda y: jnp.repeat(y, 2, axis=1), 96, 192),
    "broadcast": (lambda y: jnp.broadcast_to(y[None], (3, 2, 6, 8)), 96, 288),
    "places": (lambda y: y[:, jnp.array([0, 3])], 32, 32),
    "resize": (lambda y: jax.image.resize(y, (2, 6, 16), "nearest"), 96, 192),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_are_layout_operations_without_arithmetic(name):
    move, read, made = MOVES[name]
    work = trace(lambda p, x: move(jnp.tanh(x @ p)), MATRIX, X)
    assert shapes(work) == [("dense", (), 96), ("layout", ("dense",), made)]
    assert work.operations[1].parents == (Edge(0, read),)
    assert (work.operations[1].macs, work.operations[1].is_output) == (0, True)


VIEWS = {
    "reshape": lambda y: y.reshape(12, 8),
    "unit transposition": lambda y: y[:, None].transpose(1, 0, 2, 3),
    "half precision": lambda y: y.astype(jnp.bfloat16),
    "integers": lambda y: y.astype(jnp.int8),
    "squeeze": lambda y: jnp.squeeze(y[None], 0),
    "stop": jax.lax.stop_gradient,
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_vanish(name):
    work = trace(lambda p, x: VIEWS[name](x @ p), MATRIX, X)
    assert shapes(work) == [("dense", (), 96)]
    assert work.operations[0].is_output


def test_concatenation_has_all_operands_as_parents():
    def fn(p, x):
        return jnp.concatenate([x @ p, jnp.tanh(x), jnp.zeros((2, 1, 8)), x], 1)

    work = trace(fn, MATRIX, X)
    assert shapes(work)[-1] == ("layout", ("dense", "act"), 2 * 19 * 8)
    assert work.operations[-1].ext_in == 96
    assert not any(point.operation == 2 for point in work.points)  # its elements are quantized already


def test_a_split_is_one_operation_of_which_readers_take_parts():
    def fn(p, x):
        a, b, _ = jnp.split(x @ p, [3, 5], axis=-1)
        return a.reshape(-1), jnp.tanh(b)

    work = trace(fn, MATRIX, X)
    assert shapes(work) == [("dense", (), 96), ("layout", ("dense",), 96), ("act", ("layout",), 24)]
    assert work.operations[2].parents == (Edge(1, 24),)
    assert [op.is_output for op in work.operations] == [False, True, True]


def test_updating_a_cache_reads_cache_and_news():
    def fn(p, cache, x, at):
        return jax.lax.dynamic_update_slice(cache, x @ p, (0, at, 0))

    cache = jax.ShapeDtypeStruct((2, 50, 8), jnp.float32)
    work = trace(fn, MATRIX, cache, X, jax.ShapeDtypeStruct((), jnp.int32))
    assert shapes(work) == [("dense", (), 96), ("layout", ("dense",), 800)]
    assert work.operations[1].ext_in == 800 + 1  # and where to write


def twice(y):
    return y, y.transpose(2, 0, 1)


TRANSPOSED = {  # what a transposition next to a product does: operations left
    "only products read it": (lambda p, x: jnp.transpose(jnp.tanh(x), (0, 2, 1)).reshape(2, 8, 6) @ p, 2),
    "a product and another read it": (lambda p, x: (lambda t: (t @ p, t))(jnp.tanh(x).transpose(0, 2, 1)), 3),
    "behind a product": (lambda p, x: jnp.tanh(jnp.einsum("bsd,se->bed", x, p)), 1),
    "behind a product, twice": (lambda p, x: jnp.einsum("bsd,se->edb", x, p), 1),
    "behind a product that others read": (lambda p, x: twice(x[:, :, :6] @ p), 3),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_a_transposition_next_to_a_product_vanishes(case):
    fn, count = TRANSPOSED[case]
    p = jax.ShapeDtypeStruct((6, 6), jnp.float32)
    work = trace(fn, p, X)
    assert len(work.operations) == count
    apart = trace(fn, p, X, fusion="none")
    assert sum(op.kind == "layout" for op in apart.operations) >= 1


@pytest.mark.parametrize(
    "look_up", [lambda t, i: jnp.take(t, i, axis=0), lambda t, i: t[i], lambda t, i: t.at[i].get(mode="clip")]
)
def test_a_lookup_stores_the_table_and_reads_rows(look_up):
    work = trace(lambda p, i: jnp.tanh(look_up(p["table"], i)) @ p["w"], {"table": TABLE, "w": MATRIX}, IDS)
    gather, dense = work.operations
    assert (gather.kind, gather.name, gather.macs) == ("gather", "table", 0)
    assert (gather.w_elems, gather.w_reads, gather.bias_elems) == (800, 96, 0)
    assert (gather.ext_in, gather.parents, gather.o_elems) == (12, (), 96)
    assert dense.parents == (Edge(0, 96),)
    assert [p.name for p in work.points] == [
        "table.weight",
        "table.activation",
        "w.weight",
    ]  # none at indices
    assert (gather.weight_axis, work.points[0].elems) == (1, 800)


def test_no_quantizer_stands_at_a_table_that_is_not_taken_by_rows():
    for fn, table in (
        (lambda p, i: jnp.take(p, i, axis=1) * 1.5, TABLE),  # columns
        (lambda p, i: p[i] * 1.5, jax.ShapeDtypeStruct((100,), jnp.float32)),  # single numbers
        (lambda p, i: p[i].astype(jnp.float32) * 1.5, jax.ShapeDtypeStruct((100, 8), jnp.int32)),
    ):
        (gather,) = trace(fn, table, IDS).operations
        assert (gather.kind, gather.weight_point) == ("gather", -1)


def test_a_table_that_is_multiplied_by_as_well_is_stored_once():
    def fn(p, i):
        return p["table"][i] @ p["table"].T

    work = trace(fn, {"table": TABLE}, IDS)
    assert [(op.kind, op.w_id, op.w_elems) for op in work.operations] == [
        ("gather", 0, 800),
        ("dense", 0, 800),
    ]
    assert [op.weight_point for op in work.operations] == [0, 0]  # at one bit-width


def test_a_lookup_at_computed_places_reads_what_it_takes():
    def fn(p, x, i):
        return jnp.take_along_axis(jnp.tanh(x), i[..., None], axis=1)

    work = trace(fn, (), X, IDS)
    gather = work.operations[-1]
    assert (gather.kind, gather.w_elems, gather.ext_in) == ("gather", 0, 12)
    assert (gather.o_elems, gather.parents) == (96, (Edge(0, 96),))


@pytest.mark.parametrize("widen", [lambda g: g[:, None], lambda g: jnp.broadcast_to(g[:, None], (2, 6, 8))])
def test_gating_by_a_smaller_tensor_is_an_operation_of_two_parents(widen):
    def fn(p, x):
        return (x @ p) * widen(jax.nn.sigmoid(jnp.mean(x, 1) @ p))

    work = trace(fn, MATRIX, X)
    assert shapes(work)[-1] == ("other", ("dense", "dense"), 96)
    assert [edge.elems for edge in work.operations[-1].parents] == [96, 16]


def test_sums_over_segments_and_writes_to_places():
    def summed(p, x, i):
        return jax.ops.segment_sum(x @ p, i, 3)

    def written(p, cache, x, i):
        return cache.at[i].set(x @ p)

    ids = jax.ShapeDtypeStruct((6,), jnp.int32)
    rows = jax.ShapeDtypeStruct((6, 8), jnp.float32)
    work = trace(summed, MATRIX, rows, ids)
    assert shapes(work) == [("dense", (), 48), ("other", ("dense",), 24)]
    assert (work.operations[1].macs, work.operations[1].ext_in) == (48, 6)
    work = trace(written, MATRIX, jax.ShapeDtypeStruct((9, 8), jnp.float32), rows, ids)
    assert shapes(work) == [("dense", (), 48), ("layout", ("dense",), 72)]
    assert (work.operations[1].macs, work.operations[1].ext_in) == (0, 72 + 6)


BINARIES = {
    "product": lambda a, b: a * b,
    "difference": lambda a, b: a - b,
    "maximum": jnp.maximum,
    "choice": lambda a, b: jnp.where(jnp.arange(8)[None, None] > 3, a, b),
}


@pytest.mark.parametrize("name", BINARIES)
def test_two_activations_meet_in_the_later_producer(name):
    work = trace(lambda p, x: BINARIES[name](x @ p[0], x @ p[1]) @ p[2], [MATRIX] * 3, X)
    assert shapes(work) == [("dense", (), 96), ("dense", ("dense",), 96), ("dense", ("dense",), 96)]
    assert [p.source for p in work.points][-3:] == ["linear", "activation", "weight"]
    alone = trace(lambda p, x: BINARIES[name](x, jnp.zeros((2, 6, 8)) + x), (), X)
    assert alone.operations[-1].kind in ("other", "act", "norm")


def test_outputs_that_are_inputs_or_views_of_them_need_no_operation():
    work = trace(lambda p, x: (x, x.reshape(-1), x @ p, (x @ p).reshape(-1)), MATRIX, X)
    assert [(op.kind, op.is_output) for op in work.operations] == [("dense", True), ("dense", True)]


def test_dead_code_is_not_traced():
    def fn(p, x):
        jnp.sort(x)
        return x @ p

    assert len(trace(fn, MATRIX, X).operations) == 1


def test_an_unknown_primitive_is_named_with_its_line_and_the_way_out():
    with pytest.raises(ValueError, match=r"does not know primitive 'sort' at .*test_trace_layout.py:") as e:
        trace(lambda p, x: jnp.sort(x @ p), MATRIX, X)
    assert "unknown='elementwise'" in str(e.value)
    assert len(str(e.value)) < 300
