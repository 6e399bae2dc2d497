"""Weight files assembled byte by byte; those that torch wrote are in test_weights_torch.py."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nemojax.weights import read_weights

TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass
class Raw:
    """Opcodes as they are."""

    code: bytes


def encode(value) -> bytes:
    """The opcodes that push a value, by the protocol's own tables (PEP 307)."""
    match value:
        case Raw(code):
            return code
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(number)]) + number
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple() if 0 < len(value) < 4:
            return b"".join(map(encode, value)) + bytes([0x84 + len(value)])
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"}(" + b"".join(encode(k) + encode(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value))


def pickled(value) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


def call(name: str, *arguments) -> Raw:
    return Raw(b"c" + name.replace(" ", "\n").encode() + b"\n" + encode(arguments) + b"R")


def tensor(key="0", size=6, offset=0, shape=(2, 3), stride=(3, 1), kind="FloatStorage", extra=()) -> Raw:
    storage = encode(("storage", Raw(f"ctorch\n{kind}\n".encode()), key, "cpu", size, *extra)) + b"Q"
    ordered = call("collections OrderedDict")
    return call("torch._utils _rebuild_tensor_v2", Raw(storage), offset, shape, stride, False, ordered)


def old_layout(tree, storages: dict[str, np.ndarray], keys=None) -> bytes:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4}}
    keys = list(storages) if keys is None else keys
    head = [0x1950A86A20F9469CFC6C, 1001, machine, tree, keys]
    body = [struct.pack("<q", a.size) + a.tobytes() for a in storages.values()]
    return b"".join(map(pickled, head)) + b"".join(body)


def zip_layout(
    tree, storages: dict[str, np.ndarray], prefix="archive", byteorder=b"little", method=0
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(f"{prefix}/data.pkl", tree.code if isinstance(tree, Raw) else pickled(tree))
        archive.writestr(f"{prefix}/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"{prefix}/data/{key}", array.tobytes())
    return out.getvalue()


LAYOUTS = pytest.mark.parametrize("layout", [old_layout, zip_layout])
SIX = np.arange(6, dtype="<f4")


def read(folder: Path, data: bytes):
    path = folder / "net.bin"
    path.write_bytes(data)
    return read_weights(path)


def message(folder: Path, data: bytes) -> str:
    """The error for a file: one line that starts with its path."""
    with pytest.raises(ValueError, match=r"net\.bin: ") as error:
        read(folder, data)
    assert "\n" not in str(error.value)
    return str(error.value)


@LAYOUTS
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read(tmp_path, layout, kind):
    stored = np.array([0, 1, 2, 3, 4, 127]).astype(TYPES[kind])
    found = read(tmp_path, layout({"w": tensor(kind=kind)}, {"0": stored}))["w"]
    assert found.dtype == np.dtype(TYPES[kind])
    np.testing.assert_array_equal(found, stored.reshape(2, 3))


@LAYOUTS
def test_bfloat16_is_the_upper_half_of_float32(tmp_path, layout):
    values = np.array([0.0, 1.0, -2.0, 0.5, 3.0, -0.75], "<f4")  # exact in bfloat16
    half = values.view("<u2")[1::2]
    found = read(tmp_path, layout({"w": tensor(kind="BFloat16Storage")}, {"0": half}))["w"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), values.reshape(2, 3))


@LAYOUTS
def test_strides_offsets_scalars_empty_and_shared(tmp_path, layout):
    tree = {
        "transposed": tensor(shape=(3, 2), stride=(1, 3)),
        "column": tensor(offset=1, shape=(2,), stride=(3,)),
        "scalar": tensor(offset=5, shape=(), stride=()),
        "empty": tensor(shape=(0, 4), stride=(4, 1)),
        "one": tensor(offset=2, shape=(1, 2), stride=(2**30, 1)),  # the stride of a single row is never used
        "parameter": call("torch._utils _rebuild_parameter", tensor(), True, call("collections OrderedDict")),
    }
    found = read(tmp_path, layout(tree, {"0": SIX}))
    grid = SIX.reshape(2, 3)
    wanted = [grid.T, grid[:, 1], np.float32(5), np.zeros((0, 4)), np.float32([[2, 3]]), grid]
    for name, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(found[name], want, err_msg=name)
        assert found[name].shape == np.shape(want)
    with pytest.raises(ValueError, match="read-only"):
        found["transposed"][0, 0] = 1


@LAYOUTS
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_training_checkpoint_gives_its_weights(tmp_path, layout, wrapper):
    tree = {"epoch": 3, "loss": 0.5, "done": None, "steps": [1, 2], wrapper: {"w": tensor()}}
    found = read(tmp_path, layout(tree, {"0": SIX}))
    assert list(found) == ["w"]


@LAYOUTS
def test_memo_single_items_and_build(tmp_path, layout):
    put, get = b"q\x07", b"h\x07"
    wide_put, wide_get = b"r" + struct.pack("<I", 900), b"j" + struct.pack("<I", 900)
    body = b"}" + encode("a") + tensor().code + put + b"s" + encode("b") + get + wide_put + b"s"
    body += encode("c") + wide_get + b"s" + encode({"_metadata": [1]}) + b"b"
    assert read(tmp_path, layout({"state_dict": Raw(body)}, {"0": SIX})).keys() == {"a", "b", "c"}
    single = Raw(
        b"]" + encode(4) + b"a" + b"K\x05" + b"a" + b"M\x05\x06" + b"a" + b"J" + struct.pack("<i", -1) + b"a"
    )
    assert read(tmp_path, layout({"steps": single, "model": {"w": tensor()}}, {"0": SIX})).keys() == {"w"}


@LAYOUTS
@pytest.mark.parametrize("cls", [os.system, eval, open])
def test_a_malicious_pickle_is_refused_without_running(tmp_path, layout, cls):
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return cls, (f"touch {mark}",) if cls is os.system else (f"open({str(mark)!r}, 'w')",)

    bomb = Raw(pickle.dumps(Bomb(), protocol=2)[2:-1])
    assert "nothing was run" in message(tmp_path, layout({"w": bomb}, {}))
    assert not mark.exists()
    for protocol in range(6):  # and as a bare pickle
        message(tmp_path, pickle.dumps(Bomb(), protocol))
        assert not mark.exists()


@LAYOUTS
@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"w": tensor(shape=(2, 4), stride=(3, 1))}, "reaches element 6 of a storage of 6"),
        ({"w": tensor(offset=1)}, "reaches element 6"),
        ({"w": tensor(offset=-1)}, "impossible offset"),
        ({"w": tensor(stride=(-3, 1))}, "impossible offset"),
        ({"w": tensor(stride=(3, 2**62))}, "impossible offset"),
        ({"w": tensor(shape=(2.0, 3))}, "impossible offset"),
        ({"w": tensor(shape=(1,) * 40, stride=(1,) * 40)}, "impossible offset"),
        ({"w": tensor(shape=(2,))}, "no shape with one stride per axis"),
        ({"w": tensor(shape=[2, 3])}, "no shape with one stride per axis"),
        ({"w": tensor(shape=(10**11,), stride=(0,))}, "100000000000 elements"),  # 400 GB, expanded
        ({"w": tensor(), "x": tensor(size=7)}, "declared twice, differently"),
        ({"w": tensor(size=-1)}, "storage is not described"),
        ({"w": tensor(key=3)}, "storage is not described"),
        ({"w": tensor(extra=((1, 2, 3),))}, "storage is not described"),
        ({"w": tensor(kind="ComplexFloatStorage")}, "names 'torch.ComplexFloatStorage'"),
        ({"w": call("torch._utils _rebuild_tensor_v2", 1)}, "wrong arguments"),
        ({"w": call("torch FloatStorage")}, "wrong arguments"),
        ({"w": Raw(b"h\x09")}, "nothing was stored as number 9"),
        ({"w": Raw(b"t")}, "damaged"),
        ({"w": Raw(b"R")}, "operand is missing"),
        ({(1, 2): 3}, "keys are text or whole numbers"),
        ({"w": Raw(b"X\x01\x00\x00\x00\xff")}, "not UTF-8"),
        ({"w": Raw(b"V1\n")}, "opcode b'V'"),
        ({"w": tensor(), "x": 1.5}, "'x' is no tensor"),
        ({"w": tensor(), 5: tensor()}, "'5' is no tensor"),
        ([tensor()], "no dict of tensors"),
        ({"state_dict": {}, "x": tensor()}, "no dict of tensors"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, layout, tree, text):
    assert text in message(tmp_path, layout(tree, {"0": SIX}))


def test_wrong_storages_are_named(tmp_path):
    tree = {"w": tensor()}
    assert "cut off" in message(tmp_path, old_layout({"w": tensor(size=2**60)}, {"0": SIX}))
    assert "has 6 elements instead of 5" in message(tmp_path, old_layout({"w": tensor(size=5)}, {"0": SIX}))
    assert "24 bytes" in message(tmp_path, zip_layout({"w": tensor(size=2**60)}, {"0": SIX}))
    assert "'archive/data/0' is missing" in message(tmp_path, zip_layout(tree, {}))
    assert "not those of the tensors" in message(tmp_path, old_layout(tree, {"0": SIX}, keys=["0", "0"]))
    assert "not those of the tensors" in message(tmp_path, old_layout(tree, {"0": SIX}, keys={"0": 1}))
    assert "3 bytes follow" in message(tmp_path, old_layout(tree, {"0": SIX}) + b"abc")
    assert "big-endian" in message(tmp_path, zip_layout(tree, {"0": SIX}, byteorder=b"big"))
    assert "is compressed" in message(tmp_path, zip_layout(tree, {"0": SIX}, method=zipfile.ZIP_DEFLATED))
    assert "0 data.pkl" in message(tmp_path, zip_layout(tree, {"0": SIX}).replace(b"data.pkl", b"data.txt"))
    assert "no PyTorch file" in message(tmp_path, pickled(7))
    unknown = old_layout(tree, {"0": SIX}).replace(encode(1001), encode(1002), 1)
    assert "layout" in message(tmp_path, unknown)


def test_members_of_a_forged_archive_cannot_exceed_the_file(tmp_path):
    """Member i holds all members after it, so 40 storages would read 20 times the bytes of the file."""
    members, nested = [], bytes(4096)
    for i in reversed(range(40)):
        name = f"a/data/{i}".encode()
        fields = (20, 0, 0, 0, 33, zlib.crc32(nested), len(nested), len(nested), len(name), 0)
        members.append((name, fields, len(nested)))
        nested = b"PK\x03\x04" + struct.pack("<5H3I2H", *fields) + name + nested
    tree = {}
    for name, _, size in members:
        tree[name.decode()] = tensor(name.decode()[7:], size, 0, (size,), (1,), "ByteStorage")
    pkl, text = b"a/data.pkl", pickled(tree)
    fields = (20, 0, 0, 0, 33, zlib.crc32(text), len(text), len(text), len(pkl), 0)
    data = b"PK\x03\x04" + struct.pack("<5H3I2H", *fields) + pkl + text
    start = len(data)
    places = [(0, pkl, fields)] + [(start + len(nested) - size, n, f) for n, f, size in members]
    directory = b""
    for place, name, fields in places:
        place -= 30 + len(name) if place else 0
        directory += b"PK\x01\x02" + struct.pack("<6H3I5H2I", 20, *fields, 0, 0, 0, 0, place) + name
    data += nested
    end = struct.pack("<4H2IH", 0, 0, len(places), len(places), len(directory), len(data), 0)
    assert "damaged" in message(tmp_path, data + directory + b"PK\x05\x06" + end)


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pth: cannot be read \(no such file"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path)
    assert "is empty" in message(tmp_path, b"")
    assert "Git LFS" in message(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "neither .pth nor .safetensors" in message(tmp_path, b"<!DOCTYPE html>\n")


def test_a_safetensors_header_may_have_a_length_that_begins_like_a_pickle(tmp_path):
    """Its length is the first thing in the file: 128 bytes and every 256 more begin with \\x80."""
    seen = set()
    for extra in range(0, 300, 8):
        data = safetensors.numpy.save({"w": SIX}, {"note": extra * "x"})
        seen.add(data[:1])
        np.testing.assert_array_equal(read(tmp_path, data)["w"], SIX)
    assert b"\x80" in seen


def test_safetensors_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {str(d): (9 * rng.standard_normal((2, 3))).astype(d) for d in TYPES.values()}
    tensors |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 2), np.float32)}
    found = read(tmp_path, safetensors.numpy.save(tensors))
    assert found.keys() == tensors.keys()
    for name, want in tensors.items():
        np.testing.assert_array_equal(found[name], want)
        assert found[name].dtype == want.dtype


def safetensors_bytes(kind: str, body: bytes, end: int | None = None) -> bytes:
    header = f'{{"w":{{"dtype":"{kind}","shape":[2],"data_offsets":[0,{end or len(body)}]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + body


def test_safetensors_types_and_damage(tmp_path):
    found = read(tmp_path, safetensors_bytes("BF16", b"\x80\x3f\x00\xc0"))["w"]
    np.testing.assert_array_equal(found.astype(np.float32), [1.0, -2.0])
    assert "type F8_E4M3: save it as F32" in message(tmp_path, safetensors_bytes("F8_E4M3", b"\x00\x01"))
    assert "as safetensors" in message(tmp_path, safetensors_bytes("F32", bytes(8), end=2**50))
    assert "as safetensors" in message(tmp_path, struct.pack("<Q", 2**62) + b"{}")


def samples() -> dict[str, bytes]:
    tree = {"w": tensor(), "b": tensor(key="1", size=2, shape=(2,), stride=(1,), kind="LongStorage")}
    storages = {"0": SIX, "1": np.array([1, 2], "<i8")}
    return {
        "old": old_layout(tree, storages),
        "zip": zip_layout(tree, storages),
        "safetensors": safetensors.numpy.save({"w": SIX, "b": storages["1"]}),
    }


@pytest.mark.parametrize("name", ["old", "zip", "safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    data = samples()[name]
    for length in range(len(data)):
        message(tmp_path, data[:length])
    assert read(tmp_path, data).keys() == {"w", "b"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["old", "zip", "safetensors"])
def test_random_damage_gives_tensors_or_a_value_error(tmp_path, name, seed):
    rng = np.random.default_rng(seed)
    clean = samples()[name]
    refused = accepted = 0
    for _ in range(300):
        data = bytearray(clean)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        try:
            found = read(tmp_path, bytes(data))
        except ValueError as error:
            refused += "net.bin: " in str(error)
        else:
            accepted += all(isinstance(array, np.ndarray) for array in found.values())
    assert refused > 0
    assert refused + accepted == 300
