"""The quantized function as StableHLO: equal numbers in another process, and damaged files."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.export import export_jax, load_jax

spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

INPUTS = {
    "ids": np.random.default_rng(0).integers(0, 9, (4, 5)).astype(np.int32),
    "x": ref.draw(0, (4, 6, 6, 4)),
}


def fn(p, inputs):
    x = jax.lax.conv_general_dilated(
        inputs["x"],
        p["conv"],
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    x = jax.nn.relu(x).reshape(x.shape[0], -1) @ p["w"]
    return jnp.tanh(x + p["table"][inputs["ids"]].mean(1)) @ p["fc"]


@pytest.fixture(scope="module")
def net():
    params = {
        "conv": ref.kernel(0, 3, 3, 1, 8), "w": ref.kernel(1, 72, 6), "table": ref.draw(2, (9, 6)),
        "fc": ref.kernel(3, 6, 3),
    }  # fmt: skip
    return ref.network(fn, params, INPUTS)


BITS = (2, 3, 4, 5, 6, 8, 12, 32)

OTHER_PROCESS = """
import sys, numpy as np
from nemojax.export import load_jax
inputs = dict(np.load(sys.argv[1]))
np.save(sys.argv[3], np.asarray(load_jax(sys.argv[2])(inputs)))
"""


def test_another_process_gets_the_same_logits(net, tmp_path):
    bits = np.random.default_rng(0).choice(BITS, len(net.workload.points))
    size = export_jax(tmp_path / "net.stablehlo", net, bits)
    assert size == (tmp_path / "net.stablehlo").stat().st_size
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    files = [str(tmp_path / name) for name in ("inputs.npz", "net.stablehlo", "out.npy")]
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, *files], check=True)
    assert ref.difference(np.load(files[2]), ref.logits(net, bits, INPUTS)) < 1e-5


def test_any_number_of_samples_or_a_fixed_one(net, tmp_path):
    bits = np.full(len(net.workload.points), 5)
    export_jax(tmp_path / "open", net, bits)
    export_jax(tmp_path / "four", net, bits, batch=4)
    wanted = ref.logits(net, bits, INPUTS)
    for name, count in (("open", 4), ("open", 1), ("four", 4)):
        found = load_jax(tmp_path / name)({k: v[:count] for k, v in INPUTS.items()})
        assert ref.difference(np.asarray(found), wanted[:count]) < 1e-5
    run = load_jax(tmp_path / "four")
    assert ref.difference(np.asarray(jax.jit(run)(jax.tree.map(jnp.asarray, INPUTS))), wanted) < 1e-5
    with pytest.raises(ValueError, match=r"4"):
        run({k: v[:3] for k, v in INPUTS.items()})


def test_inputs_are_checked(net, tmp_path):
    export_jax(tmp_path / "net", net)
    run = load_jax(tmp_path / "net")
    with pytest.raises(ValueError, match="inputs are one array, the network was traced for"):
        run(INPUTS["x"])
    with pytest.raises(ValueError, match=r"\['x'\] has shape \(4, 6, 6, 3\)"):
        run({**INPUTS, "x": INPUTS["x"][..., :3]})


def test_other_readers_take_the_file(net, tmp_path):
    """jax.export itself, and what it says: three platforms, no weights to pass."""
    bits = np.full(len(net.workload.points), 6)
    export_jax(tmp_path / "net", net, bits, batch=4)
    data = (tmp_path / "net").read_bytes()
    exported = jax.export.deserialize(bytearray(data))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert len(exported.in_avals) == 2
    logits = exported.call(jax.tree.map(jnp.asarray, INPUTS))
    assert ref.difference(np.asarray(logits), ref.logits(net, bits, INPUTS)) < 1e-5
    facts = json.loads(data[data.rindex(b'{"schema"') : data.rindex(b"}") + 1])
    assert facts["bits"] == dict.fromkeys(net.workload.point_names, 6)
    assert (facts["network"], facts["weights_source"]) == ("net", "drawn")
    only = export_jax(tmp_path / "cpu", net, bits, batch=4, platforms=("cpu",))
    assert 0 < only < len(data)


def test_damaged_files_are_refused(net, tmp_path):
    export_jax(tmp_path / "net", net, batch=1)
    data = (tmp_path / "net").read_bytes()
    broken = [data[:k] for k in (0, 5, len(data) // 2, len(data) - 1)]
    places = [*range(0, len(data), len(data) // 40), *range(len(data) - 60, len(data))]
    broken += [data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :] for k in places]
    for text in broken:
        (tmp_path / "broken").write_bytes(text)
        with pytest.raises(ValueError, match=r"broken: ") as error:
            load_jax(tmp_path / "broken")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        load_jax(tmp_path / "missing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch must be a number of at least 1, or None for any, got 0"),
        ({"platforms": ("abacus",)}, "platforms must be among cpu, cuda, rocm and tpu"),
        ({"platforms": ()}, "platforms must be among"),
        ({"bits": np.full(2, 8)}, "bits must have one column"),
    ],
)
def test_wrong_arguments_are_refused(net, arguments, message, tmp_path):
    bits = arguments.pop("bits", None)
    with pytest.raises(ValueError, match=message):
        export_jax(tmp_path / "net", net, bits, **arguments)
    assert not list(tmp_path.iterdir())
