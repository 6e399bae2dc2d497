"""From the tensors of a file to variables: the layout that fits, and what is said when none does."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.weights import CLASSIFIER, COUNTER, KERAS, KERAS_COUNTED, OURS, TORCH, Layout, convert, counted


@dataclass(frozen=True)
class Config:
    channels: int = 4
    bias: bool = False


def shapes(config: Config):
    c = config.channels
    out = {
        ("params", "stem", "kernel"): (3, 2, 3, c),
        ("params", "stem_bn", "scale"): (c,),
        ("params", "stem_bn", "bias"): (c,),
        ("batch_stats", "stem_bn", "mean"): (c,),
        ("batch_stats", "stem_bn", "var"): (c,),
        ("params", "block", "depthwise", "kernel"): (3, 3, 1, c),
        ("params", "classifier", "kernel"): (c, 5),
        ("params", "classifier", "bias"): (5,),
    }
    return out | ({("params", "stem", "bias"): (c,)} if config.bias else {})


def torch_names(config: Config) -> Iterator[tuple[str, str]]:
    yield from [("stem", "conv"), ("stem_bn", "bn"), ("block.depthwise", "b.dw"), ("classifier", "fc")]


def keras_names(config: Config) -> Iterator[tuple[str, str]]:
    yield from [("stem", "Conv"), ("stem_bn", "Conv_BN"), ("block.depthwise", "dw")]
    yield "classifier", CLASSIFIER


LAYOUTS = (
    Layout("torch", TORCH, torch_names, {"bias": False}, COUNTER),
    Layout("Keras", KERAS, keras_names, {"bias": True}),
    Layout("Keras 3", KERAS_COUNTED, counted(keras_names), {"bias": True}, reversed_inputs="stem"),
    OURS,
)


def draw(seed=0, bias=False):
    rng = np.random.default_rng(seed)
    out = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes(Config(4, bias)).items()}
    return out | {("batch_stats", "stem_bn", "var"): rng.uniform(1, 2, 4).astype(np.float32)}


def as_torch(v):
    return {
        "conv.weight": v["params", "stem", "kernel"].transpose(3, 2, 0, 1),
        "bn.weight": v["params", "stem_bn", "scale"],
        "bn.bias": v["params", "stem_bn", "bias"],
        "bn.running_mean": v["batch_stats", "stem_bn", "mean"],
        "bn.running_var": v["batch_stats", "stem_bn", "var"],
        "bn.num_batches_tracked": np.array(9),
        "b.dw.weight": v["params", "block", "depthwise", "kernel"].transpose(3, 2, 0, 1),
        "fc.weight": v["params", "classifier", "kernel"].T,
        "fc.bias": v["params", "classifier", "bias"],
    }


def as_keras(v):
    return {
        "Conv/Conv/kernel:0": v["params", "stem", "kernel"],
        "Conv/Conv/bias:0": v["params", "stem", "bias"],
        "Conv_BN/Conv_BN/gamma:0": v["params", "stem_bn", "scale"],
        "Conv_BN/Conv_BN/beta:0": v["params", "stem_bn", "bias"],
        "Conv_BN/Conv_BN/moving_mean:0": v["batch_stats", "stem_bn", "mean"],
        "Conv_BN/Conv_BN/moving_variance:0": v["batch_stats", "stem_bn", "var"],
        "dw/dw/depthwise_kernel:0": v["params", "block", "depthwise", "kernel"].transpose(0, 1, 3, 2),
        "anything/model/anything/kernel:0": v["params", "classifier", "kernel"],
        "anything/model/anything/bias:0": v["params", "classifier", "bias"],
    }


def as_keras_3(v):
    layers = "layers/functional/layers"
    old = {name.rpartition("/")[2]: a for name, a in as_keras(v).items() if name.startswith("Conv_BN")}
    order = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")
    return {
        f"{layers}/conv2d/vars/0": v["params", "stem", "kernel"][:, :, ::-1],
        f"{layers}/conv2d/vars/1": v["params", "stem", "bias"],
        **{f"{layers}/batch_normalization/vars/{i}": old[name] for i, name in enumerate(order)},
        f"{layers}/depthwise_conv2d/vars/0": as_keras(v)["dw/dw/depthwise_kernel:0"],
        "layers/dense/vars/0": v["params", "classifier", "kernel"],
        "layers/dense/vars/1": v["params", "classifier", "bias"],
    }


def ours(v):
    return {"/".join(path): array for path, array in v.items()}


@pytest.mark.parametrize(
    ("bias", "write"), [(False, as_torch), (True, as_keras), (True, as_keras_3), (True, ours)]
)
def test_the_layout_is_found_by_its_names(bias, write):
    want = draw(1, bias)
    config, found = convert(write(want), Config(4, bias and write is ours), shapes, LAYOUTS, "net")
    assert config == Config(4, bias)
    assert found.keys() == want.keys()
    for path, array in want.items():
        np.testing.assert_array_equal(found[path], array)
        assert found[path].flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16])
def test_other_precisions_become_float32(dtype):
    tensors = {name: array.astype(dtype) for name, array in as_torch(draw()).items()}
    _, found = convert(tensors, Config(), shapes, LAYOUTS, "net")
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    want = tensors["fc.bias"].astype(np.float32)
    np.testing.assert_array_equal(found["params", "classifier", "bias"], want)


def refused(tensors) -> str:
    with pytest.raises(ValueError, match=r"tensors?|names") as error:
        convert(tensors, Config(), shapes, LAYOUTS, "net")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_or_too_much_is_listed():
    good = as_torch(draw())
    some = {n: a for n, a in good.items() if not n.startswith("bn.")}
    text = refused(some | {"extra": np.zeros(1), "new\nline": np.zeros(1)})
    missing = "bn.bias, bn.running_mean, bn.running_var, bn.weight"
    assert f"not those of net as torch names them: 4 tensors are missing: {missing};" in text
    assert r"2 tensors are unexpected: extra, 'new\nline'" in text
    nothing = refused({f"w{i}": np.zeros(1) for i in range(7)})
    assert "8 tensors are missing" in nothing
    assert "7 tensors are unexpected: w0, w1, w2, w3, w4, w5, w6: use" in nothing
    many = refused({f"w{i:02}": np.zeros(1) for i in range(43)})
    assert "w38, w39 and 3 more: use" in many
    twice = {**as_keras(draw(0, True)), "other/Conv/kernel:0": np.zeros(3)}
    assert "'other/Conv/kernel:0' are both 'Conv/kernel'" in refused(twice)
    two_heads = {**as_keras(draw(0, True)), "more/kernel:0": np.zeros((2, 2))}
    assert "unexpected: anything/model/anything/bias:0" in refused(two_heads)


def test_wrong_values_name_the_tensor():
    good = as_torch(draw())

    def change(name, array):
        return refused(good | {name: array})

    assert "'conv.weight' has shape (3, 2, 3, 4), expected (4, 3, 3, 2): use other" in change(
        "conv.weight", good["conv.weight"].transpose(2, 3, 1, 0)
    )
    assert "'fc.bias' has shape (7,), expected (5,): give classes=7" in change("fc.bias", np.zeros(7))
    assert "'fc.weight' has shape (7, 4), expected (5, 4): give classes=7" in change(
        "fc.weight", np.zeros((7, 4))
    )
    assert "'fc.weight' has shape (5, 9), expected (5, 4): use other" in change("fc.weight", np.zeros((5, 9)))
    assert "'bn.bias' holds NaN or infinite" in change("bn.bias", np.full(4, np.nan))
    assert "'bn.bias' holds NaN or infinite" in change("bn.bias", np.full(4, 1e300))  # beyond float32
    assert "'bn.running_var' holds variances below zero" in change("bn.running_var", np.full(4, -1.0))
