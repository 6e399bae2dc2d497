"""Keras's files assembled with h5py and zipfile: what is read, what is refused, and damage of any kind."""

import io
import sys
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.weights import read_weights

h5py = pytest.importorskip("h5py")

KERNEL = np.arange(24, dtype="<f4").reshape(2, 3, 4)
BIAS = np.array([1.0, -2.0], "<f4")


def hdf5(fill, **options) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w", **options) as file:
        fill(file)
    return out.getvalue()


def legacy(file):
    """A whole model of Keras 2: configuration, weights, state of the optimizer."""
    file.attrs["model_config"] = '{"class_name": "Lambda", "config": {"function": "os.system"}}'
    file["model_weights/conv/conv/kernel:0"] = KERNEL
    file["model_weights/head/model/head/bias:0"] = BIAS
    file["optimizer_weights/adam/m:0"] = np.zeros(5)


def counted(file):
    """Keras 3's layers by kind and number."""
    file["layers/conv2d/vars/0"] = KERNEL
    file["layers/conv2d_1/vars/0"] = BIAS
    file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "u4")
    file.create_group("layers/add/vars")
    file["optimizer/vars/0"] = np.array(3)


def keras(data: bytes, member="model.weights.h5", method=zipfile.ZIP_STORED, **others: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", '{"module": "os", "class_name": "system"}')
        archive.writestr(member, data)
        for name, text in others.items():
            archive.writestr(name, text)
    return out.getvalue()


def read(folder: Path, data: bytes):
    (folder / "net.h5").write_bytes(data)
    return read_weights(folder / "net.h5")


def message(folder: Path, data: bytes) -> str:
    with pytest.raises(ValueError, match=r"net\.h5: ") as error:
        read(folder, data)
    assert "\n" not in str(error.value)
    return str(error.value)


SAMPLES = {
    "legacy": (hdf5(legacy), ["conv/conv/kernel:0", "head/model/head/bias:0"]),
    "counted": (hdf5(counted), ["layers/conv2d/vars/0", "layers/conv2d_1/vars/0"]),
    "keras": (keras(hdf5(counted)), ["layers/conv2d/vars/0", "layers/conv2d_1/vars/0"]),
    "newest format": (hdf5(counted, libver="latest"), ["layers/conv2d/vars/0", "layers/conv2d_1/vars/0"]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_weights_alone_are_read(tmp_path, name):
    data, names = SAMPLES[name]
    found = read(tmp_path, data)
    assert sorted(found) == names
    np.testing.assert_array_equal(found[names[0]], KERNEL)
    np.testing.assert_array_equal(found[names[1]], BIAS)
    with pytest.raises(ValueError, match="read-only"):
        found[names[0]][0] = 1


def test_types(tmp_path):
    kinds = ["f8", "f2", "i8", "i1", "u1", "?"]

    def fill(file):
        for kind in kinds:
            file[kind] = np.arange(4).astype(kind)
        file["scalar"] = np.float32(2.5)
        file["empty"] = np.zeros((0, 3), "f4")
        file.create_dataset("brain", data=np.array([1.5, -3.0], jnp.bfloat16)).attrs["dtype"] = "bfloat16"

    found = read(tmp_path, hdf5(fill))
    for kind in kinds:
        np.testing.assert_array_equal(found[kind], np.arange(4).astype(kind))
        assert found[kind].dtype == np.dtype(kind)
    assert (found["scalar"].shape, float(found["scalar"]), found["empty"].shape) == ((), 2.5, (0, 3))
    assert found["brain"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["brain"].astype(np.float32), [1.5, -3.0])


def test_nothing_outside_the_file_is_read(tmp_path):
    secret = tmp_path / "secret.h5"
    secret.write_bytes(hdf5(legacy))
    raw = tmp_path / "secret.bin"
    raw.write_bytes(bytes(400))
    target = str(secret)

    def whole_model(file):
        file["model_weights"] = h5py.ExternalLink(target, "model_weights")

    def inside(file):
        file["layers/w"] = h5py.ExternalLink(target, "model_weights/conv/conv/kernel:0")

    def soft(file):
        file["w"] = h5py.SoftLink("/elsewhere")

    def external_storage(file):
        file.create_dataset("w", (100,), "f4", external=[(str(raw), 0, 400)])

    def virtual(file):
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(target, "model_weights/head/model/head/bias:0", (2,))
        file.create_virtual_dataset("w", layout)

    for fill in (whole_model, inside, soft):
        assert "is a link to elsewhere" in message(tmp_path, hdf5(fill))
    for fill in (external_storage, virtual):
        assert "'w' lies in another file" in message(tmp_path, hdf5(fill, libver="latest"))


def test_sizes_are_bounded_by_the_file(tmp_path):
    def filled(file):  # 4 TB of zeros that no byte of the file stands for
        file.create_dataset("w", (10**6, 10**6), "f4", chunks=(1000, 1000))

    def several(file):
        for i in range(40):  # each fits the file, together they do not
            file.create_dataset(f"w{i}", (500,), "f4", chunks=(500,))

    def compressed(file):
        file.create_dataset("w", data=np.zeros(10**5, "f4"), compression="gzip")

    def loop(file):
        file["a/w"] = BIAS
        file["a/again"] = file["a"]

    for fill in (filled, several):
        assert "larger than the file" in message(tmp_path, hdf5(fill))
    assert "'w' is compressed" in message(tmp_path, hdf5(compressed))
    assert "16 groups in one another" in message(tmp_path, hdf5(loop))
    assert "is compressed" in message(tmp_path, keras(hdf5(counted), method=zipfile.ZIP_DEFLATED))


def test_what_is_no_number_is_named(tmp_path):
    def text(file):
        file["w"] = "abc"

    def record(file):
        file["w"] = np.zeros(2, [("a", "f4")])

    def nothing(file):
        file["w"] = h5py.Empty("f4")

    def empty(file):
        file.create_group("layers")

    assert "'w' is of type object" in message(tmp_path, hdf5(text))
    assert "'w' is of type [('a', '<f4')]" in message(tmp_path, hdf5(record))
    assert "'w' has no shape" in message(tmp_path, hdf5(nothing))
    assert "holds no weights" in message(tmp_path, hdf5(empty))
    assert "'model.weights.h5' is missing" in message(tmp_path, keras(b"", member="weights.txt"))
    assert "as HDF5" in message(tmp_path, keras(b"no HDF5"))
    assert "as HDF5" in message(tmp_path, b"\x89HDF\r\n\x1a\n" + bytes(99))


def test_members_that_point_outside_are_never_unpacked(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    data = keras(hdf5(counted), **{"../evil.txt": b"x", "/tmp/evil.txt": b"x"})
    assert len(read(folder, data)) == 2
    assert sorted(place.name for place in tmp_path.rglob("*")) == ["inside", "net.h5"]


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name in ("legacy", "keras"):
        assert 'pip install "frugaljax[keras]"' in message(tmp_path, SAMPLES[name][0])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    data, _ = SAMPLES[name]
    for length in np.linspace(0, len(data) - 1, 150).astype(int):
        message(tmp_path, data[:length])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SAMPLES)
def test_random_damage_gives_tensors_or_a_value_error(tmp_path, name, seed):
    rng = np.random.default_rng(seed)
    clean, _ = SAMPLES[name]
    busy = np.flatnonzero(np.frombuffer(clean, "u1"))  # most bytes are zero filling
    refused = accepted = 0
    for _ in range(120):
        data = bytearray(clean)
        for place in rng.choice(busy, rng.integers(1, 6)):
            data[place] = rng.choice([0, 1, 127, 255, rng.integers(0, 256)])
        try:
            found = read(tmp_path, bytes(data))
        except ValueError as error:
            text = str(error)
            refused += text.startswith(f"{tmp_path / 'net.h5'}: ") and "\n" not in text
        else:
            accepted += all(isinstance(array, np.ndarray) for array in found.values())
    assert refused + accepted == 120
    assert refused > 0
