"""One network in four libraries: quantized alike, from what a user of each library has in hand."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nemojax as nemo
from hwmodel import coverage, zoo
from nemojax.quantizable import quantizable
from nemojax.quantized import check_quantized

DIM, HEADS, CLASSES = 8, 2, 5
IMAGES = np.random.default_rng(0).normal(size=(6, 6, 6, 3)).astype(np.float32)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(DIM, (3, 3))(x)))
        x = x.reshape(x.shape[0], -1, DIM)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x))
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(jnp.mean(x, 1)))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, DIM, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(DIM, rngs=rngs)
        self.norm = nnx.LayerNorm(DIM, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, DIM, decode=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(DIM, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.conv(x)))
        x = x.reshape(x.shape[0], -1, DIM)
        x = x + self.attention(self.norm(x))
        return self.head(self.dropout(jnp.mean(x, 1)))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(3, DIM, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.LayerNorm(DIM)
        self.attention = eqx.nn.MultiheadAttention(HEADS, DIM, key=keys[1])
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(DIM, CLASSES, key=keys[2])

    def __call__(self, x):
        x = jax.nn.relu(self.conv(x.transpose(2, 0, 1)))
        x = x.reshape(DIM, -1).T
        y = jax.vmap(self.norm)(x)
        return self.head(self.dropout(jnp.mean(x + self.attention(y, y, y), 0)))


def linen():
    model = Linen()
    return model, model.init(jax.random.key(0), IMAGES)


def plain():
    weights = {"w1": jax.random.normal(jax.random.key(0), (3, DIM)), "w2": jnp.ones((DIM, CLASSES))}
    return lambda p, x: jnp.mean(jax.nn.gelu(x @ p["w1"]), (1, 2)) @ p["w2"], weights


MODELS = {
    "linen": linen,
    "nnx": lambda: (NNX(nnx.Rngs(0)), None),
    "equinox": lambda: (Equinox(jax.random.key(0)), None),
    "plain": plain,
}
EXPECTED = {
    "linen": lambda model, params: model.apply(params, IMAGES),
    "nnx": lambda model, params: nnx.view(model, deterministic=True, use_running_average=True)(IMAGES),
    "equinox": lambda model, params: jax.vmap(eqx.nn.inference_mode(model))(IMAGES),
    "plain": lambda model, params: model(params, IMAGES),
}


@pytest.mark.parametrize(
    "library",
    ["linen", "plain", *(pytest.param(name, marks=pytest.mark.long) for name in ("nnx", "equinox"))],
)
def test_a_model_as_its_library_has_it(library):
    model, params = MODELS[library]()
    network = nemo.quantize(quantizable(model, params), IMAGES)
    np.testing.assert_allclose(network.logits(IMAGES), EXPECTED[library](model, params), atol=2e-5)
    names = network.workload.point_names
    eight, two = (network.quantized_logits(jnp.full(len(names), b), IMAGES) for b in (8, 2))
    exact = network.logits(IMAGES)
    assert 0 < np.abs(eight - exact).max() < 0.1 * np.abs(two - exact).max()
    weights = {"linen": 6, "nnx": 6, "equinox": 6, "plain": 2}[library]
    assert sum(name.endswith(".weight") for name in names) == weights
    again = nemo.quantize(quantizable(*MODELS[library]()), IMAGES)
    assert again.workload.point_names == names  # stable


def test_names_that_files_carry_are_those_of_the_parameters():
    network = nemo.quantize(quantizable(*linen()), IMAGES)
    weights = [name for name in network.workload.point_names if name.endswith(".weight")]
    parts = [f"MultiHeadDotProductAttention_0/{part}.weight" for part in ("query", "key", "value", "out")]
    assert weights == ["Conv_0.weight", *parts, "Dense_0.weight"]
    assert network.name == "Linen"


def test_what_is_not_quantized_is_listed_with_the_reason():
    network = nemo.quantize(quantizable(*linen()), IMAGES)
    found = coverage(network.workload)
    left = {row.name: row for row in found.left}
    assert "accumulator" in left["Dense_0/bias"].reason
    assert "folded" in left["BatchNorm_0/scale"].reason
    assert left["BatchNorm_0/scale"].elems == DIM
    assert "element by element" in left["LayerNorm_0/scale"].reason
    assert left["Dense_0"].reason == "nothing in the network reads it"
    assert not any(name.endswith("kernel") for name in left)
    leaves = jax.tree.leaves(linen()[1])
    quantized = sum(leaf.size for leaf in leaves if leaf.ndim > 1 and "bias" not in str(leaf.shape))
    assert found.parameters == sum(leaf.size for leaf in leaves)
    biases = 3 * DIM  # of the heads, which are matrices
    assert found.quantized_parameters == quantized - biases
    assert "Dense_0/bias" in found.table()
    assert f"{len(network.workload.points)} quantizers" in found.table()


def test_every_reason_is_given_where_it_is_due():
    def apply(p, x):
        ids, y = x["ids"], x["y"]
        y = jax.lax.reduce_window(jnp.tanh(y @ p["w"]), -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")
        y = jnp.mean(y, 1) + p["lookup"][ids][:, None]
        return jnp.where(ids[:, None] > 1, y, 2 * y) @ p["v"]

    params = {"w": jnp.ones((3, 4)), "lookup": jnp.arange(5.0), "v": jnp.ones((4, 2))}
    inputs = {"ids": np.array([0, 1, 4]), "y": np.random.default_rng(0).normal(size=(3, 6, 3))}
    config = nemo.QuantizerConfig(quantize_pooled_input=False)
    network = nemo.quantize(quantizable(apply, params), inputs, config)
    reasons = {row.name: row.reason for row in coverage(network.workload).left}
    assert "no rows" in reasons["lookup"]
    assert reasons["v"] == "nothing in the network reads it"
    pools = [reason for name, reason in reasons.items() if name.startswith("pool")]
    assert "rounded already" in pools[0]
    assert "quantize_pooled_input" in pools[1]


def test_what_is_no_model_is_refused():
    model, params = linen()
    with pytest.raises(ValueError, match="Linen needs its params"):
        quantizable(model)
    with pytest.raises(ValueError, match="NNX holds its parameters itself: leave params out"):
        quantizable(NNX(nnx.Rngs(0)), params)
    with pytest.raises(ValueError, match=r"params\['w'\] is a str, no array"):
        quantizable(lambda p, x: x, {"w": "kernel"})
    with pytest.raises(ValueError, match="model is a int: give a module or a function"):
        quantizable(3, params)
    with pytest.raises(ValueError, match="was not traced"):
        coverage(zoo.resnet50())


@pytest.mark.parametrize("shape", [(4, 6, 6, 1), (4, 3, 6, 6)])
def test_inputs_that_the_network_does_not_take_are_named(shape):
    named = rf"network 'Linen' takes no inputs of shape \(1, {', '.join(map(str, shape[1:]))}\): "
    with pytest.raises(ValueError, match=named):
        nemo.quantize(quantizable(*linen()), np.zeros(shape, np.float32))


def test_half_precision_is_refused_with_its_place():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(CLASSES)(nn.relu(nn.Conv(DIM, (3, 3), dtype=jnp.bfloat16)(x)).mean((1, 2)))

    with jax.numpy_dtype_promotion("standard"):
        model = Half()
        variables = model.init(jax.random.key(0), IMAGES)
        with pytest.raises(ValueError, match=r"'Half' computes in bfloat16 at .*dtype=float32"):
            nemo.quantize(quantizable(model, variables), IMAGES)
        wide, variables = linen()  # parameters in half precision are widened where they are used
        narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables["params"])
        nemo.quantize(quantizable(wide, {**variables, "params": narrow}), IMAGES)


@pytest.mark.parametrize(("leaf", "what"), [("kernel", "weights"), ("bias", "biases")])
def test_parameters_that_are_not_finite_are_named(leaf, what):
    model, variables = linen()
    variables["params"]["Dense_0"][leaf] = variables["params"]["Dense_0"][leaf].at[0].set(jnp.nan)
    with pytest.raises(ValueError, match=f"{what} of 'Dense_0' hold NaN or infinity: check the network's"):
        nemo.quantize(quantizable(model, variables), IMAGES)


def test_a_network_without_quantizers_is_named_for_what_it_is():
    with pytest.raises(ValueError, match=r"'Linen' is not quantized yet: give nemo.quantize\(network, cal"):
        check_quantized(quantizable(*linen()))
    check_quantized(nemo.quantize(quantizable(*linen()), IMAGES))
