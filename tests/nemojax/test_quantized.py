"""The quantized network against the same network written out with a quantizer at every point by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel
from nemojax.batches import fitting
from nemojax.calibration import QuantizerConfig
from nemojax.networks import Network
from nemojax.quantized import QuantizedNetwork, compiled_logits, quantize

CONFIGS = {
    "default": QuantizerConfig(),
    "per tensor, no pooled point": QuantizerConfig(
        activation_range="mean_minmax", per_channel=False, batch=4, quantize_pooled_input=False
    ),
    "symmetric": QuantizerConfig(symmetric_weights=True, symmetric_activations=True, weight_range="mse"),
}


def conv(x, w, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision="highest",
    )


def max_pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def apply(p, x):
    """Batch norms, a max pooling, an inverted bottleneck with its shortcut, a mean and a classifier."""

    def norm(y, name):
        mean, var, scale, shift = (row[None, None, None] for row in p[name])
        return (y - mean) * (scale / jnp.sqrt(var + 1e-3)) + shift

    x = max_pool(jax.nn.relu6(norm(conv(x, p["stem"], 2), "stem_bn")))
    y = jax.nn.relu6(norm(conv(x, p["expand"]), "expand_bn"))
    y = jax.nn.relu6(norm(conv(y, p["depthwise"], groups=12), "depthwise_bn"))
    x = x + norm(conv(y, p["project"]), "project_bn")
    return jnp.mean(x, (1, 2)) @ p["fc"] + p["fc_bias"][None]


POINTS = (
    "input", "stem.weight", "stem.activation", "expand.weight", "expand.activation", "depthwise.weight",
    "depthwise.activation", "project.weight", "project.linear", "project.sum", "pool_2.pool", "fc.weight",
)  # fmt: skip


def by_hand(p, x, snap):
    """`apply` with folded weights; `snap(name, tensor)` is the quantizer of a point."""

    def layer(name, x, stride=1, groups=1):
        mean, var, scale, shift = p[f"{name}_bn"]
        factor = scale / np.sqrt(var + np.float32(1e-3))
        y = conv(x, snap(f"{name}.weight", p[name] * factor), stride, groups)
        return y + (shift - mean * factor)[None, None, None]

    x = max_pool(snap("stem.activation", jnp.clip(layer("stem", snap("input", x), 2), 0, 6)))
    y = snap("expand.activation", jnp.clip(layer("expand", x), 0, 6))
    y = snap("depthwise.activation", jnp.clip(layer("depthwise", y, groups=12), 0, 6))
    x = snap("project.sum", x + snap("project.linear", layer("project", y)))
    pooled = snap("pool_2.pool", jnp.sum(x, (1, 2)) / (x.shape[1] * x.shape[2]))
    return jnp.dot(pooled, snap("fc.weight", p["fc"]), precision="highest") + p["fc_bias"][None]


def to_grid(x, low, high, bits, symmetric):
    """The quantizer's definition with integers and a zero point, in NumPy."""
    x, low, high = np.asarray(x), np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    q_min, q_max, z = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0
    if symmetric:
        s = np.maximum(-low, high) / np.where(low < 0, np.float32(q_max), np.float32(2**bits - 1))
        z = np.where(low < 0, 0, q_min)
    else:
        s = (high - low) / np.float32(2**bits - 1)
    s = np.where(s > 0, s, np.float32(1))
    if not symmetric:
        z = q_min - np.rint(low / s)
    return jnp.asarray(s * (np.clip(np.rint(x / s) + z, q_min, q_max) - z), jnp.float32)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (3, 3, 3, 8),
        "expand": (1, 1, 8, 12),
        "depthwise": (5, 5, 1, 12),
        "project": (1, 1, 12, 8),
    }
    p = {}
    for name, shape in shapes.items():
        p[name] = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        scale = rng.uniform(0.5, 1.5, shape[-1]) * rng.choice([-1, 1, 1], shape[-1])
        p[f"{name}_bn"] = np.stack(
            [
                rng.normal(size=shape[-1]) * 0.1,
                rng.uniform(0.5, 2, shape[-1]),
                scale,
                rng.normal(size=shape[-1]),
            ]
        )
    p |= {"fc": rng.normal(size=(8, 5)), "fc_bias": rng.normal(size=5)}
    p["stem_bn"][2, 0] = 0.0  # a channel that is cut off
    return {name: np.float32(value) for name, value in p.items()}


def images(seed, count):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 16, 16, 3)), jnp.float32)


def make(params, config=CONFIGS["default"], lowering="xla", fn=apply) -> QuantizedNetwork:
    return quantize(Network("tiny", fn, params), images(1, 6), config, lowering=lowering)


@pytest.fixture(scope="module")
def network(params):
    return make(params)


@pytest.fixture(scope="module")
def cpu_network(params):
    return make(params, lowering="cpu")


def random_bits(seed, network, choices=(2, 3, 4, 5, 6, 8, 12, 16, 32)):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.choice(choices, len(network.workload.points)), jnp.int32)


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_network_by_hand(params, network, config):
    network, x = network if config == "default" else make(params, CONFIGS[config]), images(2, 3)
    names = network.workload.point_names
    assert names == tuple(name for name in POINTS if "no pooled" not in config or name != "pool_2.pool")
    run = jax.jit(QuantizedNetwork.quantized_logits)
    for seed in range(3):
        bits = random_bits(seed, network)
        seen = []

        def snap(name, tensor, bits=bits, seen=seen):
            seen.append(name)
            if name not in names or bits[names.index(name)] == 32:
                return jnp.asarray(tensor)
            i = names.index(name)
            b = int(bits[i])
            if name.endswith(".weight"):
                low, high = (
                    np.asarray(end)[b] for end in network.ranges.weights[name.removesuffix(".weight")]
                )
                return to_grid(tensor, low, high, b, network.config.symmetric_weights)
            low, high = (np.asarray(end)[i, b] for end in (network.ranges.low, network.ranges.high))
            return to_grid(tensor, low, high, b, network.config.symmetric_activations)

        expected = by_hand(params, x, snap)
        assert sorted(seen) == sorted(POINTS)
        found = run(network, bits, x)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)
        assert np.abs(found - apply(params, x)).max() > 1e-2  # it does quantize


def test_thirty_two_bits_are_full_precision(params, network, cpu_network):
    x, bits = images(3, 3), jnp.full(len(POINTS), 32, jnp.int32)

    @jax.jit
    def run(x):
        full = [net.logits(x, chunk=chunk) for net in (network, cpu_network) for chunk in (None, 2)]
        return [*full, *(net.quantized_logits(bits, x) for net in (network, cpu_network))]

    expected = jax.jit(apply)(params, x)
    for found in run(x):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_each_point_changes_the_logits(network):
    """32 bits everywhere but for two bits at one point; more bits come nearer to the untouched logits."""
    x = images(1, 2)  # of the calibration, so that little is clipped
    full = np.full((len(POINTS), len(POINTS)), 32)
    errors = []
    for width in (2, 5, 10):
        bits = jnp.asarray(np.where(np.eye(len(POINTS), dtype=bool), width, full), jnp.int32)
        logits = compiled_logits(network, bits, x)
        errors.append(np.abs(logits - jax.jit(QuantizedNetwork.logits)(network, x)[None]).max((1, 2)))
    assert (errors[0] > 1e-3).all()
    assert (errors[0] > 2.5 * errors[1]).all()
    assert (errors[1] > 8 * errors[2]).all()


@pytest.mark.parametrize("chunk", [3, 20])
def test_the_chunk_changes_nothing(network, chunk):
    x, bits = images(5, 7), random_bits(7, network)
    run = jax.jit(QuantizedNetwork.quantized_logits, static_argnames="chunk")
    whole = run(network, bits, x, chunk=7)
    parts = run(network, bits, x, chunk=chunk)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_array_equal(parts.argmax(1), whole.argmax(1))


def test_the_lowerings_agree(network, cpu_network):
    other = cpu_network
    assert other.workload.point_names == network.workload.point_names
    np.testing.assert_allclose(other.ranges.low, network.ranges.low, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.ranges.high, network.ranges.high, rtol=1e-5, atol=1e-6)
    x = images(6, 3)
    bits = jnp.stack([random_bits(20 + seed, network) for seed in range(4)])
    left, right = (compiled_logits(net.replace(ranges=network.ranges), bits, x) for net in (network, other))
    np.testing.assert_allclose(right, left, atol=1e-4)


def test_compiled_logits_is_one_compilation_for_all_bits(network):
    x, before = images(8, 5), len(network.traced.compilations)
    several = jnp.stack([random_bits(seed, network) for seed in range(5)])
    together = compiled_logits(network, several, x)
    assert network.traced.compilations[before:] == [(5, 12, 5, 16, 16, 3)]
    alone = [compiled_logits(network, row[None], x)[0] for row in several]
    assert network.traced.compilations[before + 1 :] == [(1, 12, 5, 16, 16, 3)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    compiled_logits(jax.tree.map(jnp.copy, network), several[::-1], x + 1)
    assert len(network.traced.compilations) == before + 2


def test_straight_through_gives_the_weights_a_gradient_and_the_same_numbers(network):
    x, bits = images(12, 2), jnp.full(len(POINTS), 16, jnp.int32)

    @partial(jax.jit, static_argnames="option")
    def run(kernels, option):
        def loss(kernels):
            net = network.replace(folded=network.folded._replace(kernels=kernels))
            if option is None:
                return jnp.sum(net.logits(x)), net.logits(x)
            logits = net.quantized_logits(bits, x, straight_through=option)
            return jnp.sum(logits), logits

        return jax.grad(loss, has_aux=True)(kernels)

    (exact, _), (through, left), (stopped, right) = (
        run(network.folded.kernels, option) for option in (None, True, False)
    )
    np.testing.assert_array_equal(left, right)
    for name in ("stem", "expand", "depthwise", "project", "fc"):
        assert not stopped[name].any()
        size = np.abs(exact[name]).max()
        # the largest and smallest weights lie on the ends of their range, where half of the gradient passes
        near = np.isclose(through[name], exact[name], atol=0.05 * size)
        assert near.mean() > 0.6


def test_it_is_a_pytree_of_arrays(network):
    leaves, treedef = jax.tree.flatten(network)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(treedef, leaves)
    assert again.workload is network.workload
    assert (again.name, again.weights_source, again.config) == ("tiny", "unknown", CONFIGS["default"])
    scaled = jax.jit(lambda net: jax.tree.map(lambda a: a * 1.0, net))(network)
    np.testing.assert_array_equal(scaled.ranges.low, network.ranges.low)


def test_images_shared_among_devices_give_the_same_logits(network):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x, bits = images(9, 8), random_bits(9, network)
    spread = jax.jit(QuantizedNetwork.quantized_logits, static_argnames="chunk")(
        jax.device_put(network, everywhere), bits, jax.device_put(x, rows), chunk=8
    )
    assert len(spread.sharding.device_set) == 4
    whole = jax.jit(QuantizedNetwork.quantized_logits, static_argnames="chunk")(network, bits, x, chunk=8)
    np.testing.assert_allclose(spread, whole, atol=1e-5)


def test_python_numbers_as_parameters():
    def scaled(p, x):
        return jax.nn.relu(x.reshape(x.shape[0], -1) * p["s"]) @ p["w"]

    w = np.float32(np.random.default_rng(0).normal(size=(768, 5)))
    network = make({"s": 0.5, "w": w}, fn=scaled)
    x = images(10, 2)
    expected = np.maximum(0.5 * np.asarray(x).reshape(2, -1), 0) @ w
    np.testing.assert_allclose(jax.jit(QuantizedNetwork.logits)(network, x), expected, atol=1e-3)


@pytest.mark.parametrize("chunk", [0, -1])
def test_an_impossible_chunk_is_refused(network, chunk):
    with pytest.raises(ValueError, match=f"chunk must be at least 1, got {chunk}"):
        network.logits(images(11, 2), chunk=chunk)


def test_an_unknown_primitive_is_named(params):
    with pytest.raises(ValueError, match=r"does not know primitive 'sort' at .*test_quantized.py"):
        make(params, fn=lambda p, x: jnp.sort(apply(p, x)))


def test_tables_of_lookups_have_a_quantizer_too():
    """Token ids and a mask in, one tree; the table is multiplied by at the end as well (tied)."""
    rng = np.random.default_rng(0)
    params = {"table": jnp.asarray(rng.normal(size=(11, 4)), jnp.float32)}
    params["dense"] = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    ids = rng.integers(0, 11, (6, 5)).astype(np.int64)
    mask = rng.integers(0, 2, (6, 5)) > 0
    mask[:, 0] = True

    def apply(p, inputs):
        x = jnp.tanh(p["table"][inputs["ids"]])  # the activation joins the lookup
        x = jnp.sum(jnp.where(inputs["mask"][..., None], x @ p["dense"], 0.0), 1)
        return x @ p["table"].T

    network = quantize(Network("words", apply, params), {"ids": ids, "mask": mask})
    names = network.workload.point_names
    assert [name for name in names if name.endswith(".weight")] == ["table.weight", "dense.weight"]
    inputs = {"ids": jnp.asarray(ids, jnp.int32), "mask": jnp.asarray(mask)}
    full = jnp.full(len(names), 32, jnp.int32)
    np.testing.assert_allclose(network.quantized_logits(full, inputs), apply(params, inputs), atol=1e-5)
    np.testing.assert_allclose(
        network.quantized_logits(full, inputs, chunk=4), apply(params, inputs), atol=1e-5
    )
    bits = full.at[names.index("table.weight")].set(3)
    table = np.asarray(params["table"])
    by_feature = to_grid(table, table.min(0), table.max(0), 3, False)
    by_word = to_grid(table.T, table.min(1), table.max(1), 3, False)  # of the product's own channels

    def expected(p, x):
        x = np.sum(np.where(x["mask"][..., None], np.tanh(by_feature[x["ids"]]) @ p["dense"], 0.0), 1)
        return x @ by_word

    np.testing.assert_allclose(network.quantized_logits(bits, inputs), expected(params, inputs), atol=1e-4)
    assert float(hwmodel.model_ratio(network.workload, bits)) == pytest.approx((44 * 3 + 16 * 32) / (60 * 32))


def test_inputs_of_another_kind_are_refused():
    apply = lambda p, x: x["a"] @ p  # noqa: E731
    network = quantize(Network("n", apply, jnp.ones((3, 2))), {"a": np.ones((4, 3))})
    for inputs, message in (
        (np.ones((4, 3)), "inputs are one array, the network was traced for"),
        ({"a": np.ones((4, 2))}, r"\['a'\] has shape \(4, 2\) and type float32, the network was traced for"),
        ({"a": np.ones((4, 3), int)}, "type int32, the network was traced for"),
        ({"a": np.ones((0, 3))}, "inputs are empty"),
    ):
        with pytest.raises(ValueError, match=message):
            fitting(inputs, network.traced.sample)
    with pytest.raises(ValueError, match=r"equally many rows, got .*'a'.*4.*'b'.*3"):
        quantize(Network("n", apply, jnp.ones((3, 2))), {"a": np.ones((4, 3)), "b": np.ones((3, 3))})
    with pytest.raises(ValueError, match="the function gives 2 arrays"):
        quantize(Network("n", lambda p, x: (x @ p, x), jnp.ones((3, 2))), np.ones((4, 3)))
