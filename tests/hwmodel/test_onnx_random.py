"""Random networks written twice, as an ONNX file and as a JAX function: both give the same workload."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace
from hwmodel.onnx_import.read import from_onnx

onnx = pytest.importorskip("onnx")
FLOAT = onnx.TensorProto.FLOAT
OF_THE_PROGRAM = {
    "name": "", "equations": (), "affine": (), "affine_value": -1, "weight_point": -1, "weight_axis": -1,
    "input_point": -1,
}  # fmt: skip


class Writer:
    """Writes ONNX nodes and a list of JAX steps side by side; values are numbered alike."""

    def __init__(self, shape):
        self.nodes, self.weights, self.steps = [], {}, []
        self.shapes = [shape]  # N, H, W, C

    def add(self, op, inputs, step, shape, weights=(), **attributes):
        names = [f"w{len(self.weights) + j}" for j in range(len(weights))]
        self.weights |= {name: onnx_shape for name, (onnx_shape, _) in zip(names, weights, strict=True)}
        self.steps.append((step, inputs, [(name, s) for name, (_, s) in zip(names, weights, strict=True)]))
        self.shapes.append(shape)
        out = len(self.shapes) - 1
        read = [*(f"v{i}" for i in inputs), *names]
        self.nodes.append(onnx.helper.make_node(op, read, [f"v{out}"], name=f"n{out}", **attributes))
        return out

    def conv(self, x, channels, kernel, stride, groups, bias):
        n, h, w, c = self.shapes[x]
        pad = [(kernel // 2, kernel // 2)] * 2
        size = [(s + 2 * (kernel // 2) - kernel) // stride + 1 for s in (h, w)]
        weights = [((channels, c // groups, kernel, kernel), (kernel, kernel, c // groups, channels))]
        weights += [((channels,), (channels,))] * bias

        def step(x, w, b=None):
            y = jax.lax.conv_general_dilated(
                x,
                w,
                (stride,) * 2,
                pad,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
            return y if b is None else y + b[None, None, None]

        pads = [kernel // 2] * 4
        return self.add(
            "Conv", [x], step, (n, *size, channels), weights, strides=[stride] * 2, pads=pads, group=groups
        )

    def batch_norm(self, x):
        def step(x, scale, shift, mean, variance):
            factor = scale * jax.lax.rsqrt(variance + 1e-5)
            return x * factor[None, None, None] + (shift - mean * factor)[None, None, None]

        c = self.shapes[x][3]
        return self.add("BatchNormalization", [x], step, self.shapes[x], [((c,), (c,))] * 4)

    def relu(self, x):
        return self.add("Relu", [x], jax.nn.relu, self.shapes[x])

    def residual(self, x, y):
        return self.add("Add", [x, y], jnp.add, self.shapes[x])

    def max_pool(self, x):
        n, h, w, c = self.shapes[x]

        def step(x):
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        return self.add("MaxPool", [x], step, (n, h // 2, w // 2, c), kernel_shape=[2, 2], strides=[2, 2])

    def concatenate(self, x, y):
        n, h, w, c = self.shapes[x]
        shape = (n, h, w, c + self.shapes[y][3])
        return self.add("Concat", [x, y], lambda x, y: jnp.concatenate([x, y], 3), shape, axis=1)

    def head(self, x):
        n, _, _, c = self.shapes[x]
        x = self.add("ReduceMean", [x], lambda x: jnp.mean(x, (1, 2)), (n, c), axes=[2, 3], keepdims=0)
        weights = [((c, 5), (c, 5)), ((5,), (5,))]
        x = self.add("Gemm", [x], lambda x, w, b: x @ w + b[None], (n, 5), weights)
        return self.add("Softmax", [x], jax.nn.softmax, (n, 5), axis=-1)


def random_network(seed):
    rng = np.random.default_rng(seed)
    write = Writer((int(rng.integers(1, 3)), 16, 16, 8))
    values = [0]
    for _ in range(12):
        x = values[int(rng.integers(max(len(values) - 3, 0), len(values)))]
        h, c = write.shapes[x][1], write.shapes[x][3]
        pick = rng.random()
        alike = [v for v in values if v != x and write.shapes[v][1] == h]
        same = [v for v in alike if write.shapes[v] == write.shapes[x]]
        if pick < 0.2 and same:
            values.append(write.residual(x, same[int(rng.integers(len(same)))]))
        elif pick < 0.3 and alike:
            values.append(write.concatenate(x, alike[int(rng.integers(len(alike)))]))
        elif pick < 0.4 and h > 2:
            values.append(write.max_pool(x))
        else:
            groups = int(rng.choice([1, 2, c]))
            channels = c if groups == c else int(rng.choice([4, 8, 12]))
            kernel, stride = int(rng.choice([1, 3, 5])), 1 + int(h > 2 and rng.random() < 0.2)
            x = write.conv(x, channels, kernel, stride, groups, bool(rng.integers(2)))
            x = write.batch_norm(x) if rng.random() < 0.6 else x
            values.append(write.relu(x) if rng.random() < 0.6 else x)
    write.head(values[-1])
    return write


def as_onnx(write, path):
    n, h, w, c = write.shapes[0]
    stored = [
        onnx.helper.make_tensor(name, FLOAT, shape, np.zeros(int(np.prod(shape))))
        for name, shape in write.weights.items()
    ]
    graph = onnx.helper.make_graph(
        write.nodes,
        "random",
        [onnx.helper.make_tensor_value_info("v0", FLOAT, (n, c, h, w))],
        [onnx.helper.make_tensor_value_info(f"v{len(write.shapes) - 1}", FLOAT, None)],
        stored,
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return from_onnx(path)


def as_jax(write):
    def fn(params, x):
        values = [x]
        for step, inputs, weights in write.steps:
            values.append(step(*(values[i] for i in inputs), *(params[name] for name, _ in weights)))
        return values[-1]

    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for _, _, weights in write.steps
        for name, shape in weights
    }
    return trace(fn, params, jax.ShapeDtypeStruct(write.shapes[0], jnp.float32))


@pytest.mark.parametrize("seed", range(12))
def test_both_give_the_same_operations(seed, tmp_path):
    write = random_network(seed)
    found, expected = as_onnx(write, tmp_path / "random.onnx"), as_jax(write)
    assert len(found.operations) > 3
    for a, b in zip(found.operations, expected.operations, strict=True):
        a, b = (dataclasses.replace(op, **OF_THE_PROGRAM) for op in (a, b))
        if a.kind == "norm":  # a batch norm on its own: two vectors in ONNX, as many as the arithmetic in JAX
            b = dataclasses.replace(b, bias_elems=a.bias_elems)
        assert a == b
