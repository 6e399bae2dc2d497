"""Networks by name, their options, and weights saved and read back."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nemojax import networks
from nemojax.networks import NETWORKS, Network, by_name, load_weights, save_weights
from nemojax.networks.pixels import efficientnet
from nemojax.weights import read_file, read_weights

KEY = jax.random.key(0)
SMALL = {
    "mobilenet_v2": {"width": 0.1, "classes": 3},
    "mobilenet_v2_cifar": {"width": 0.1},
    "resnet20_cifar": {"depth": 8, "width": 4},
    "resnext29_cifar": {"depth": 11, "width": 4, "groups": 2, "group_width": 2},
}


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_network_is_a_documented_function_of_weights_and_key():
    for name, make in NETWORKS.items():
        assert list(inspect.signature(make).parameters)[:2] == ["weights", "key"]
        assert inspect.getdoc(make)
        assert getattr(networks, make.__name__) is make, name


@pytest.mark.parametrize(
    ("name", "classes", "resolution", "mean", "crop", "fit"),
    [
        ("mobilenet_v2", 1000, 224, (123.675, 116.28, 103.53), 256 / 224, "torchvision"),
        ("mobilenet_v2_cifar", 10, 32, (125.3, 122.9, 113.9), 1.0, "as_is"),
        ("resnet20_cifar", 10, 32, (125.3, 122.9, 113.9), 1.0, "as_is"),
    ],
)
def test_defaults(name, classes, resolution, mean, crop, fit):
    options = {n: v for n, v in SMALL[name].items() if n == "width"}
    network = by_name(name, None, KEY, **options)
    assert network.name == name
    assert network.weights_source == "drawn from a key"
    images = jax.ShapeDtypeStruct((2, resolution, resolution, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.params, images).shape == (2, classes)
    found = network.preprocess
    assert (found.resolution, found.mean, found.crop_ratio, found.fit) == (resolution, mean, crop, fit)


def test_options_by_name():
    network = by_name("resnet20_cifar", None, KEY, classes=7, resolution=48, depth=8, width=4)
    assert network.name == "resnet8_cifar"
    assert network.preprocess.resolution == 48
    assert network.params["params"]["classifier"]["kernel"].shape == (16, 7)


def test_preprocessing_of_the_lite_members():
    """A margin of 16 pixels on all sides at the resolution of training."""
    for resolution in (224, 240, 260):
        found = efficientnet(resolution)
        assert (found.mean, found.scale, found.shorter_side) == (127.0, 128.0, resolution + 32)


def test_text_networks_by_name():
    network = by_name("minilm_l6", None, KEY, classes=3)
    tokens = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    assert jax.eval_shape(network.apply, network.params, {"ids": tokens, "mask": tokens}).shape == (2, 3)


@pytest.mark.parametrize("name", SMALL)
def test_saved_weights_are_read_back_by_the_same_door(tmp_path, name):
    network = by_name(name, None, KEY, **SMALL[name])
    path = tmp_path / "net.safetensors"
    save_weights(path, network)
    again = by_name(name, path, **SMALL[name])
    equal(again.params, network.params)
    assert again.config == network.config
    assert again.weights_source.startswith("net.safetensors (SHA-256 ")
    assert "params/classifier/kernel" in read_weights(path)
    assert [place.name for place in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("name", ["mobilenet_v2_cifar", "resnext29_cifar"])
def test_options_that_are_not_given_are_the_files(tmp_path, name):
    """So the weights of `nemojax train --width 0.5` serve search, evaluate and export."""
    options = {option: value for option, value in SMALL[name].items() if option != "depth"}
    network = by_name(name, None, KEY, **options)
    save_weights(tmp_path / "net.safetensors", network)
    assert by_name(name, tmp_path / "net.safetensors").config == network.config


def test_what_a_file_decides_is_kept(tmp_path):
    """The padding of Keras's MobileNet-V2 is no matter of shapes, so it has to be in the file."""
    config = networks.mobilenet.Config(0.1, 3, padding="same", epsilon=1e-3)
    family = networks.mobilenet.FAMILY
    save_weights(tmp_path / "keras.safetensors", family.build(config, key=KEY, name="mobilenet_v2"))
    again = by_name("mobilenet_v2", tmp_path / "keras.safetensors", width=0.1, classes=3)
    assert again.config == config
    assert again.preprocess.mean == 127.5


def test_saved_from_another_config(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(path, by_name("mobilenet_v2_cifar", None, KEY, **SMALL["mobilenet_v2_cifar"]))
    with pytest.raises(
        ValueError, match=r"net\.safetensors: it was saved from a network with stem_stride=1, not 2"
    ):
        by_name("mobilenet_v2", path, width=0.1, classes=10)
    with pytest.raises(ValueError, match=r"saved from a network with width=0\.1, not 0\.2: ask for the one"):
        by_name("mobilenet_v2_cifar", path, width=0.2)
    with pytest.raises(ValueError, match="its config is not one of this network's"):
        by_name("resnet20_cifar", path)
    tensors, metadata, _ = read_file(path)
    damaged = {
        "{": "its metadata are damaged",
        "[" * 100_000: "its metadata are damaged",
        "3": "its config is not one of",
        metadata["config"].replace("symmetric", "odd"): "padding must be one of",
    }
    for text, words in damaged.items():
        safetensors.numpy.save_file(tensors, path, {"config": text})
        with pytest.raises(ValueError, match=rf"net\.safetensors: {words}"):
            by_name("mobilenet_v2_cifar", path, width=0.1)


def test_any_network_can_be_saved_and_loaded(tmp_path):
    """A user's own, with lists in its parameters, in half precision."""
    params = {"layers": [{"w": jnp.ones((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}, {"w": jnp.float32(2)}]}
    network = Network("mine", lambda p, x: x @ p["layers"][0]["w"], params)
    path = tmp_path / "mine.safetensors"
    save_weights(path, network)
    assert set(read_weights(path)) == {"layers/0/w", "layers/0/b", "layers/1/w"}
    other = jax.tree.map(lambda leaf: leaf * 0, params)
    again = load_weights(path, Network("mine", network.apply, other))
    equal(again.params, params)
    assert jax.tree.map(lambda leaf: leaf.dtype, again.params) == jax.tree.map(
        lambda leaf: leaf.dtype, params
    )
    with pytest.raises(ValueError, match=r"1 tensors are missing: layers/2"):
        load_weights(path, Network("more", network.apply, {"layers": [*params["layers"], jnp.ones(2)]}))
    with pytest.raises(ValueError, match=r"'layers/1/w' has shape \(\), expected \(2,\)"):
        load_weights(
            path, Network("other", network.apply, {"layers": [params["layers"][0], {"w": jnp.ones(2)}]})
        )
    broken = Network("nan", network.apply, jax.tree.map(lambda leaf: leaf * jnp.nan, params))
    save_weights(path, broken)
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        load_weights(path, network)


def test_saving_fails_whole(tmp_path):
    network = by_name("resnet20_cifar", None, KEY, depth=8, width=4)
    with pytest.raises(ValueError, match=r"absent/net\.safetensors: cannot be written \(No such file"):
        save_weights(tmp_path / "absent" / "net.safetensors", network)
    complex_one = Network("c", network.apply, {"w": jnp.ones(2, jnp.complex64)})
    with pytest.raises(ValueError, match="tensor 'w' is of type complex64"):
        save_weights(tmp_path / "net.safetensors", complex_one)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="no network 'resnet5'; there are mobilenet_v2, resnet50"):
        by_name("resnet5")
    with pytest.raises(ValueError, match="resnet50 has no option 'width'; it has classes, resolution"):
        by_name("resnet50", None, KEY, width=2)
    with pytest.raises(ValueError, match=r"weights=None draws them: give key=jax\.random\.key"):
        by_name("resnet20_cifar")
    with pytest.raises(ValueError, match="weights='imagenet' come with efficientnet_lite0 only"):
        by_name("resnet50", "imagenet")
    with pytest.raises(ValueError, match=r"absent\.pth: cannot be read"):
        by_name("resnet50", "absent.pth")
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 2 .* got 21"):
        by_name("resnet20_cifar", None, KEY, depth=21)
    with pytest.raises(ValueError, match=r"depth must be 9n \+ 2 .* got 30"):
        by_name("resnext29_cifar", None, KEY, depth=30)
    with pytest.raises(ValueError, match="classes must be above 0 and whole, got 0"):
        by_name("mobilenet_v2", None, KEY, classes=0)
    with pytest.raises(ValueError, match="shortcut must be one of 'projection', 'padded', got 'none'"):
        by_name("resnet20_cifar", None, KEY, shortcut="none")
    with pytest.raises(ValueError, match="groups must be 1 in basic blocks"):
        networks.resnet.Config(block="basic", groups=2)
    with pytest.raises(ValueError, match="repeats must be whole numbers"):
        networks.resnet.Config(())
    with pytest.raises(ValueError, match="padding must be one of 'symmetric', 'same', got 'valid'"):
        networks.mobilenet.Config(padding="valid")
