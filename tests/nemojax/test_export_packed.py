"""Packed files: their size against the objective, their bits against plain Python, what they restore."""

import importlib.util
import json
import math
import os
import re
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hwmodel import model_ratio
from nemojax.calibration import QuantizerConfig
from nemojax.export import load_packed, packed_bits, save_packed
from nemojax.export.bitstream import pack, unpack
from nemojax.ptq import equalized
from nemojax.ptq.bounds import Bounded

spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

IDS = np.random.default_rng(0).integers(0, 13, (3, 5)).astype(np.int32)
SHAPES = {
    "table": (13, 8),
    "w": (8, 8),
    "fc": (8, 7),
    "bias": (7,),
    "scale": (8,),
    "shift": (8,),
    "layer": (8,),
}


def network(seed=0, config=None):
    """A lookup, a layer that is run twice, a norm with a scale, a bias, and the table again, transposed."""

    def fn(p, ids):
        x = p["table"][ids]
        for _ in range(2):
            x = jax.nn.relu(x @ p["w"] + p["layer"][None, None])
        x = jax.nn.standardize(x, axis=-1) * p["scale"][None, None] + p["shift"][None, None]
        logits = jnp.tanh(x).mean(1)
        return jnp.concatenate([logits @ p["fc"] + p["bias"][None], logits @ p["table"].T], 1)

    params = {name: ref.draw(seed + i, shape, 0.5) for i, (name, shape) in enumerate(SHAPES.items())}
    return ref.network(fn, params, IDS, config or QuantizerConfig(per_channel=False), seed=seed)


@pytest.fixture(scope="module")
def net():
    return network()


def bits_of(net, choices=(2, 3, 4, 5, 6, 7, 8, 11, 16, 32), seed=0):
    return np.random.default_rng(seed).choice(choices, len(net.workload.points))


def stream_bit(data, k):
    return data[k // 8] >> (k % 8) & 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 32), st.integers(0, 40)), max_size=6), st.integers(0, 2**32 - 1))
def test_the_stream_holds_every_bit_in_order(sizes, seed):
    rng = np.random.default_rng(seed)
    tensors = [(rng.integers(0, 2**bits, count, np.uint64).astype(np.uint32), bits) for bits, count in sizes]
    data = pack(tensors)
    assert len(data) == math.ceil(sum(len(v) * bits for v, bits in tensors) / 8)
    k = 0
    for values, bits in tensors:
        np.testing.assert_array_equal(unpack(data, k, len(values), bits), values)
        for value in values:
            assert sum(stream_bit(data, k + j) << j for j in range(bits)) == value
            k += bits
    assert not any(stream_bit(data, j) for j in range(k, 8 * len(data)))


def test_a_long_tensor_is_packed_in_parts(monkeypatch):
    monkeypatch.setattr("nemojax.export.bitstream._CHUNK", 16)
    values = np.random.default_rng(0).integers(0, 2**5, 1001).astype(np.uint32)
    data = pack([(values[:3], 7), (values, 5), (values, 11)])
    np.testing.assert_array_equal(unpack(data, 21, 1001, 5), values)
    np.testing.assert_array_equal(unpack(data, 21 + 5005, 1001, 11), values)


@pytest.mark.parametrize("seed", range(4))
def test_the_size_is_the_objectives(net, seed, tmp_path):
    """Tied weights once: the table that two operations read, the layer that is run twice."""
    bits = bits_of(net, seed=seed)
    packed = save_packed(tmp_path / "net", net, bits)
    widths = dict(zip(net.workload.point_names, bits.tolist(), strict=True))
    counted = 13 * 8 * widths["table.weight"] + 8 * 8 * widths["w.weight"] + 8 * 7 * widths["fc.weight"]
    counted += 32 * (7 + 8 + 8 + 8)
    assert packed.bytes == (tmp_path / "net.bin").stat().st_size == math.ceil(counted / 8)
    assert packed.parameters == sum(math.prod(shape) for shape in SHAPES.values())
    ratio = float(model_ratio(net.workload, jnp.asarray(bits)))
    assert packed.model_ratio == pytest.approx(ratio, rel=1e-6)
    assert packed.bytes == math.ceil(round(ratio * 32 * packed.parameters, 2) / 8)


@pytest.mark.parametrize(
    "config",
    [
        QuantizerConfig(per_channel=False),
        QuantizerConfig(per_channel=False, symmetric_weights=True, symmetric_activations=True),
    ],
    ids=["default", "symmetric"],
)
def test_it_restores_the_logits_bit_for_bit(config, tmp_path):
    """Into a network of other weights and other ranges."""
    net, other = network(0, config), network(5, config)
    run = jax.jit(lambda n, bits: n.quantized_logits(bits, IDS))
    for seed in range(2):
        bits = bits_of(net, seed=seed)
        save_packed(tmp_path / "net", net, bits)
        loaded = load_packed(tmp_path / "net", other)
        np.testing.assert_array_equal(packed_bits(tmp_path / "net", other), bits)
        wanted = run(net, jnp.asarray(bits))
        np.testing.assert_array_equal(run(loaded, jnp.asarray(bits)), wanted)
        assert np.abs(np.asarray(run(other, jnp.asarray(bits)) - wanted)).max() > 1e-2
        assert (loaded.name, loaded.weights_source) == ("net", "drawn")
        again = save_packed(tmp_path / "again", loaded, bits)
        assert Path(again.bin).read_bytes() == (tmp_path / "net.bin").read_bytes()


def test_per_channel_grids_and_convolutions(tmp_path):
    def fn(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
        )
        y = y * p["gain"][None, None, None]  # folds, and adds nothing to store
        return jax.nn.relu(y).mean((1, 2)) @ p["fc"]

    x = ref.draw(0, (2, 6, 6, 4))
    params = {"conv": ref.kernel(1, 3, 3, 2, 6), "gain": ref.draw(2, (6,)), "fc": ref.kernel(3, 6, 5)}
    net = ref.network(fn, params, x)
    bits = np.full(len(net.workload.points), 5)
    packed = save_packed(tmp_path / "net", net, bits)
    assert packed.bytes == math.ceil(5 * (108 + 30) / 8)
    loaded = load_packed(tmp_path / "net", net.replace(folded=jax.tree.map(jnp.zeros_like, net.folded)))
    np.testing.assert_array_equal(ref.logits(loaded, bits, x), ref.logits(net, bits, x))
    tensors = json.loads((tmp_path / "net.json").read_text())["tensors"]
    assert [(t["name"], t["shape"], t["range_shape"]) for t in tensors] == [
        ("conv.weight", [3, 3, 2, 6], [1, 1, 1, 6]),
        ("fc.weight", [6, 5], [1, 5]),
    ]
    by_hand = unpack((tmp_path / "net.bin").read_bytes(), 0, 108, 5).reshape(3, 3, 2, 6)
    values = np.float32(tensors[0]["scale"]) * (
        by_hand.astype(np.float32) - np.float32(tensors[0]["zero_point"])
    )
    np.testing.assert_allclose(values, params["conv"] * params["gain"], atol=0.51 * max(tensors[0]["scale"]))


def test_tied_weights_that_differ_are_refused(tmp_path):
    """Per channel, the two readers of the table have grids along different axes; 32 bits need none."""
    net = network(0, QuantizerConfig())
    bits = np.full(len(net.workload.points), 8)
    with pytest.raises(ValueError, match=r"'table' and 'table_2' share weights but not their numbers"):
        save_packed(tmp_path / "net", net, bits)
    assert not list(tmp_path.iterdir())
    bits[net.workload.point_names.index("table.weight")] = 32
    save_packed(tmp_path / "net", net, bits)


def test_the_manifest_keeps_its_published_schema(net, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(resources.files("nemojax").joinpath("schemas", "packed.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    save_packed(tmp_path / "net", net, bits_of(net))
    data = json.loads((tmp_path / "net.json").read_text())
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data) == set(schema["properties"]) - {"bounds"}
    tensor = schema["properties"]["tensors"]["items"]
    assert set(tensor["required"]) == set(tensor["properties"]) == set(data["tensors"][0])
    assert not jsonschema.Draft202012Validator(schema).is_valid(data | {"sha256": "0"})


def test_damaged_files_are_refused(net, tmp_path):
    bits = bits_of(net)
    save_packed(tmp_path / "net", net, bits)
    data, text = (tmp_path / "net.bin").read_bytes(), (tmp_path / "net.json").read_text()
    wrong = "net.bin: its SHA-256 is not the manifest's"
    for broken in (data[:-1], data + b"\0", b"", bytes([data[0] ^ 1]) + data[1:]):
        (tmp_path / "net.bin").write_bytes(broken)
        with pytest.raises(ValueError, match=wrong):
            load_packed(tmp_path / "net", net)
    (tmp_path / "net.bin").write_bytes(data)
    save_packed(tmp_path / "other", network(5), bits)
    (tmp_path / "net.bin").write_bytes((tmp_path / "other.bin").read_bytes())
    with pytest.raises(ValueError, match=wrong):  # swapped
        load_packed(tmp_path / "net", net)
    (tmp_path / "third.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"it belongs to 'net.bin', not 'third.bin': rename both files alike"
    ):
        load_packed(tmp_path / "third", net)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ValueError, match=r"net.bin: cannot be read"):
        load_packed(tmp_path / "net", net)
    with pytest.raises(ValueError, match=r"nowhere.json: cannot be read"):
        load_packed(tmp_path / "nowhere", net)


def change(path, fields):
    def apply(document):
        place = document
        for step in path[:-1]:
            place = place[step]
        if fields is None:
            del place[path[-1]]
        else:
            place[path[-1]] = fields

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(["schema"], "other/1"), "schema is \"other/1\""),
        (change(["tensors"], None), "has no field 'tensors'"),
        (change(["extra"], 1), "has a field \"extra\""),
        (change(["tensors", 0, "bits"], 40), "tensors[0].bits is 40, not 2-16"),
        (change(["tensors", 0, "scale"], [-1.0]), "a scale that is not above 0"),
        (change(["tensors", 0, "zero_point"], [999]), "a zero point outside its grid"),
        (change(["tensors", 0, "zero_point"], [0.5]), "a zero point outside its grid"),
        (change(["tensors", 0, "scale"], [1.0, 2.0]), "tensors[0].scale is no list of 1 numbers"),
        (change(["tensors", 0, "low"], ["x"]), "something that is no finite number"),
        (change(["tensors", 0, "range_shape"], [3, 3]), "does not broadcast"),
        (change(["tensors", 0, "shape"], [13, -8]), "tensors[0].shape is no list of whole numbers"),
        (change(["tensors", 1, "offset"], 3), "tensors[1] starts at bit 3"),
        (change(["tensors", 0, "part"], "heads"), "tensors[0].part is 'heads'"),
        (change(["tensors", 0, "key"], 3), "tensors[0].key is no string"),
        (change(["tensors", 0, "name"], None), "tensors[0] has other fields"),
        (change(["tensors", 0, "aliases", 0, "axes"], [0, 0]), "no view of a tensor"),
        (change(["tensors", 0, "aliases"], {}), "tensors[0].aliases is no list"),
        (change(["tensors", 3, "dtype"], "int8"), "tensors[3] has 32 bits of type 'int8'"),
        (change(["stream_bits"], 8), "stream_bits is 8"),
        (change(["bits", "fc.weight"], None), "bits lack 'fc.weight'"),
        (change(["bits", "fc.weight"], 99), "bits of 'fc.weight' in row 0 are 99"),
        (change(["quantizer", "symmetric_weights"], True), "symmetric_weights is True, the network's"),
        (change(["network"], 3), "network is no string"),
        (change(["activations"], {}), "activations has no "),
        (change(["tensors", 0, "key"], "unknown"), "kernels 'table' of this network is missing"),
    ],
)  # fmt: skip
def test_damaged_manifests_are_refused(net, edit, message, tmp_path):
    save_packed(tmp_path / "net", net, np.full(len(net.workload.points), 6))
    document = json.loads((tmp_path / "net.json").read_text())
    edit(document)
    (tmp_path / "net.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_packed(tmp_path / "net", net)
    assert str(tmp_path / "net.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_another_network_is_refused(net, tmp_path):
    def fn(p, x):
        return jax.nn.relu(x @ p["w"]) @ p["v"]

    save_packed(tmp_path / "net", net, bits_of(net))
    other = ref.network(fn, {"w": ref.kernel(0, 4, 8), "v": ref.kernel(1, 8, 5)}, ref.draw(0, (2, 4)))
    with pytest.raises(ValueError, match="bits lack 'input'"):
        load_packed(tmp_path / "net", other)
    wider = ref.network(fn, {"w": ref.kernel(0, 4, 6), "v": ref.kernel(1, 6, 5)}, ref.draw(0, (2, 4)))
    save_packed(tmp_path / "small", other, np.full(4, 8))
    with pytest.raises(ValueError, match=r"kernels 'v' has shape \(8, 5\), the network's is \(6, 5\)"):
        load_packed(tmp_path / "small", wider)


def test_nothing_half_written_stays(net, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("nemojax.export.packed.save_manifest", fail)
        with pytest.raises(ValueError, match="no space left"):
            save_packed(tmp_path / "net", net, bits_of(net))
        assert not list(tmp_path.iterdir())
    save_packed(tmp_path / "net", net, bits_of(net))
    wanted = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail_untouched(*_):
        assert (tmp_path / "net.bin").read_bytes() == wanted["net.bin"]  # until both are written
        raise ValueError("no space left")

    with monkeypatch.context() as patch:  # a pair that is there stays one
        patch.setattr("nemojax.export.packed.save_manifest", fail_untouched)
        with pytest.raises(ValueError, match="no space left"):
            save_packed(tmp_path / "net", net, bits_of(net, seed=1))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == wanted
    replaced = os.replace

    def fail_late(source, target):
        if Path(target) == tmp_path / "net.json":
            raise PermissionError(1, "not permitted")
        replaced(source, target)

    with monkeypatch.context() as patch:  # when the new .bin is in its place already
        patch.setattr("os.replace", fail_late)
        with pytest.raises(ValueError, match=r"/net.json: cannot be written \(not permitted\)"):
            save_packed(tmp_path / "net", net, bits_of(net, seed=1))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == wanted
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="cannot be written"):
        save_packed(tmp_path / "folder", net, bits_of(net))
    assert (tmp_path / "folder.json").is_dir()
    assert not (tmp_path / "folder.bin").exists()
    with pytest.raises(ValueError, match=r"missing/net.bin: cannot be written"):
        save_packed(tmp_path / "missing" / "net", net, bits_of(net))


def relu6_network():
    """A convolution, a depthwise and a pointwise one with ReLU6 between them, of uneven channels."""
    rng, names = np.random.default_rng(0), ("NHWC", "HWIO", "NHWC")
    spread = 10.0 ** rng.uniform(-1, 1, 6).astype(np.float32)
    params = {
        "first": ref.draw(1, (3, 3, 4, 6)) * spread,
        "depth": ref.draw(2, (3, 3, 1, 6)) / spread,
        "last": ref.draw(3, (1, 1, 6, 5)),
    }

    def fn(p, x):
        for name, groups in (("first", 1), ("depth", 6)):
            x = jax.lax.conv_general_dilated(
                x, p[name], (1, 1), "SAME", dimension_numbers=names, feature_group_count=groups
            )
            x = jnp.clip(x, 0.0, 6.0)
        x = jax.lax.conv_general_dilated(x, p["last"], (1, 1), "SAME", dimension_numbers=names)
        return x.mean((1, 2))

    images = 5 * ref.draw(4, (6, 8, 8, 4))
    return ref.network(fn, params, images, QuantizerConfig(per_channel=False)), images


def test_bounds_of_an_equalized_network_come_back(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    plain, images = relu6_network()
    better = equalized(plain, images)
    assert isinstance(better.traced, Bounded)
    bits = np.full(len(plain.workload.points), 6)
    packed = save_packed(tmp_path / "net", better, bits)
    ratio = float(model_ratio(better.workload, jnp.asarray(bits)))
    counted = math.ceil(round(ratio * 32 * packed.parameters, 2) / 8)  # the bounds are not in the stream
    assert packed.bytes == (tmp_path / "net.bin").stat().st_size == counted
    schema = json.loads(resources.files("nemojax").joinpath("schemas", "packed.schema.json").read_text())
    manifest = json.loads((tmp_path / "net.json").read_text())
    jsonschema.validate(manifest, schema)
    wanted = np.asarray(better.quantized_logits(jnp.asarray(bits), images))
    assert np.abs(wanted - np.asarray(plain.quantized_logits(jnp.asarray(bits), images))).max() > 0.01
    for into in (plain, better):
        again = load_packed(tmp_path / "net", into)
        found = np.asarray(again.quantized_logits(jnp.asarray(bits), images))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    save_packed(tmp_path / "plain", plain, bits)
    assert "bounds" not in json.loads((tmp_path / "plain.json").read_text())
    wanted = np.asarray(plain.quantized_logits(jnp.asarray(bits), images))
    for into in (plain, better):
        found = np.asarray(load_packed(tmp_path / "plain", into).quantized_logits(jnp.asarray(bits), images))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    key, row = next(iter(manifest["bounds"].items()))
    minimum = next(e for e in plain.workload.program.equations if key in map(str, e.inputs))
    (bounded,) = (str(v) for v in minimum.inputs if str(v) != key)
    for bounds, told in (
        ({key: row, bounded: row}, f"bounds['{bounded}'] bounds nothing in this network"),
        ({key: {**row, "values": [1e-300] * len(row["values"])}}, "holds a bound that is not above 0"),
        ({key: {**row, "values": [3.45e38] * len(row["values"])}}, "or not below infinity"),
        ({"9999": row}, "bounds['9999'] bounds nothing in this network"),
        ({key: {**row, "shape": [2, 3]}}, f"bounds['{key}'].shape is [2, 3], which does not broadcast"),
        ({key: {**row, "values": [-1.0] * len(row["values"])}}, "holds a bound that is not above 0"),
        ({key: 3}, "has other fields than shape and values"),
    ):
        (tmp_path / "net.json").write_text(json.dumps({**manifest, "bounds": bounds}))
        with pytest.raises(ValueError, match=re.escape(told)):
            load_packed(tmp_path / "net", plain)
