"""Readers of nemojax, with a few valid files for each."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_hwmodel import outcome, written
from benchmarks.fuzz_target import Made, Seed, archives, picture, png, reader, zipped

BITS = {"stem.weight": 4, "stem.activation": 8, "head.weight": 32}


def state_dict_pickle(names: tuple[str, ...] = ("conv.weight", "bn.bias")) -> bytes:
    """The pickle of an OrderedDict of tensors of six numbers, as torch.save writes it."""

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(K\x02K\x03t(K\x03K\x01t\x89"
    tensor += b"ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + b"".join(text(n) + tensor for n in names) + b"u."


def torch_files() -> list[Seed]:
    """Both layouts of torch.save."""
    numbers = np.arange(6, dtype="<f4").tobytes()
    new = zipped({"a/data.pkl": state_dict_pickle(), "a/byteorder": b"little", "a/data/0": numbers})
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    machine = b"\x80\x02}X\x0d\0\0\0little_endian\x88s."
    keys = b"\x80\x02]X\x01\0\0\x000a."
    old = magic + b"\x80\x02M\xe9\x03." + machine + state_dict_pickle() + keys
    return [Seed(".pth", new), Seed(".bin", old + struct.pack("<q", 6) + numbers)]


def keras_files() -> list[Seed]:
    """HDF5 alone and in a zip; none without h5py."""
    try:
        import h5py
    except ImportError:
        return []
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["model_weights/conv/conv/kernel:0"] = np.arange(24, dtype="<f4").reshape(2, 3, 4)
        file["model_weights/head/bias:0"] = np.ones(2, "<f4")
    whole = zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": out.getvalue()})
    return [Seed(".h5", out.getvalue()), Seed(".keras", whole)]


@reader("nemojax.read_weights", "nemojax.weights.read_weights", "nemojax.weights.read_file")
def weights(folder: Path) -> Made:
    """Weights of PyTorch, Keras and safetensors."""
    from nemojax.weights import read_metadata, read_weights, write_safetensors

    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.int32)}
    own = written(folder, ".safetensors", lambda p: write_safetensors(p, tensors, {"config": '{"a": 1}'}))

    def read(path: Path) -> None:
        read_metadata(path)
        read_weights(path)

    return [*torch_files(), *keras_files(), own], read


@reader("nemojax.networks.load_weights", "nemojax.networks.by_name", "nemojax.weights.read_metadata")
def network_weights(folder: Path) -> Made:
    """A network's own file, read as that network by name."""
    import jax

    from nemojax.networks import by_name, load_weights, save_weights

    options = {"depth": 8, "width": 4, "classes": 3}
    net = by_name("resnet20_cifar", key=jax.random.key(0), **options)

    def read(path: Path) -> None:
        load_weights(path, net)
        by_name("resnet20_cifar", path, depth=8)

    return [written(folder, ".safetensors", lambda p: save_weights(p, net))], read


def front() -> Any:
    """Three points of three quantizers."""
    from nemojax import Front

    return Front(
        np.array([[2, 4, 32], [8, 8, 8], [4, 4, 4]]),
        np.array([[0.1, 0.5], [0.2, 0.3], [0.4, 0.2]]),
        ("error", "model_ratio"),
        tuple(BITS),
        {"run": {"network": "resnet20_cifar", "bits": [4, 8]}, "seed": 1},
        {"top-1 error": np.array([0.1, 0.2, 0.3])},
    )


@reader("nemojax.Front.from_json")
def fronts(folder: Path) -> Made:
    """Fronts, and configurations to start a search from."""
    from nemojax import BitSpace, Front
    from nemojax.first_generation import seeds_of

    space = BitSpace(tuple(BITS), ((2, 4, 8),) * 3)

    def read(path: Path) -> None:
        Front.from_json(path)
        seeds_of(path, space)

    return [written(folder, ".json", front().to_json)], read


@reader("nemojax.load_bits", "nemojax.setup_run.run_settings")
def bits(folder: Path) -> Made:
    """Bit-widths by quantizer, and the settings that an evaluation reads off them."""
    from nemojax import Configuration, load_bits, save_bits
    from nemojax.setup_run import quantizers_of, run_settings

    run = {"network": "resnet20_cifar", "bits": [4, 8], "pins": [["stem*", 8]], "limits": [["size", "1MB"]]}
    told = Configuration(
        np.array(list(BITS.values())), tuple(BITS), {"error": 0.1}, {"e": 0.2}, {"run": run, "quantizers": {}}
    )

    def read(path: Path) -> None:
        found = load_bits(path)
        quantizers_of(found.settings)
        run_settings(str(path), found.settings)
        load_bits(path, tuple(BITS))

    del told.settings["quantizers"]
    return [written(folder, ".json", lambda p: save_bits(p, told))], read


@reader("nemojax.Sensitivity.from_json")
def sensitivities(folder: Path) -> Made:
    """Tables of sensitivity."""
    from nemojax import Sensitivity

    table = np.array([[0.3, 0.1], [0.2, np.nan]])
    made = Sensitivity(("a.weight", "a.activation"), (4, 8), table, "fisher", 7, 1.5)
    return [written(folder, ".json", made.to_json)], Sensitivity.from_json


@reader("nemojax.run_folder.read_course", "nemojax.run_folder.check_folder")
def courses(folder: Path) -> Made:
    """How a run went, and the settings that it is resumed with."""
    from nemojax.run_folder import SETTINGS, check_folder, read_course, start_folder
    from nemojax.setup_run import RunSettings

    course = {
        "schema": "frugaljax.nemo.course/1",
        "spent": {"evaluations": 20, "finished": 1},
        "species": ["direct", "gcn"],
        "progress": [[10, 0.1], [20, 0.2]],
        "members": [[5, 5], [6, 4]],
        "baseline_columns": ["error", "size"],
        "baseline_names": ["uniform", "uniform"],
        "baseline_costs": [[0.1, 0.2], [0.3, 0.1]],
        "baseline_bits": [[4, 4, 4], [8, 8, 8]],
    }
    settings = RunSettings()
    start_folder(folder / "run", settings)
    seed = Seed(".json", (folder / "run" / SETTINGS).read_bytes())

    def read(path: Path) -> None:
        data = path.read_bytes()
        if b"frugaljax.nemo.course" in data or b"progress" in data:
            read_course(path, 3)
            return
        (folder / "run" / SETTINGS).write_bytes(data)
        check_folder(folder / "run", settings, resume=True)

    return [Seed(".json", json.dumps(course).encode()), seed], read


@reader("nemojax.load_policies")
def evolved_policies(folder: Path) -> Made:
    """Graph policies of a search."""
    from nemojax import BitSpace, NemoConfig, load_policies, save_policies

    config, space = NemoConfig(species=("gcn", "direct")), BitSpace(("a", "b"), ((4, 8),) * 2)
    found = {"gcn": np.zeros((3, 7), np.float32)}
    seed = written(folder, ".state", lambda p: save_policies(p, found, config, space))
    return [seed], lambda path: load_policies(path, config, space)


def quantized() -> Any:
    """Two layers of a few weights, calibrated on nothing but noise."""
    import jax
    import jax.numpy as jnp

    import nemojax as nemo

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["a"] + params["b"][None]) @ params["c"]

    rng = np.random.default_rng(0)
    params = {
        n: jnp.asarray(rng.normal(size=s), jnp.float32)
        for n, s in (("a", (6, 5)), ("b", (5,)), ("c", (5, 3)))
    }
    inputs = jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)
    return nemo.quantize(nemo.quantizable(apply, params), inputs)


@reader(
    "nemojax.export.load_packed",
    "nemojax.export.packed_bits",
    "nemojax.export.load_operation_bits",
    "nemojax.export.load_qwix_rules",
    "nemojax.export.read_qwix_rules",
    "nemojax.export.load_jax",
)
def exports(folder: Path) -> Made:
    """What deployment tools read, read back."""
    import hashlib

    from nemojax import export

    net = quantized()
    chosen = np.resize([4, 8, 2, 6], len(net.workload.points))
    export.save_packed(folder / "case", net, chosen)
    stream = (folder / "case.bin").read_bytes()
    manifest = (folder / "case.json").read_bytes()
    operations = written(folder, ".json", lambda p: export.save_operation_bits(p, net, chosen))
    rules = {"network": "n", "weights_source": "w", "frugaljax": "1", "schema": "frugaljax.nemo.qwix_rules/1"}
    rows = [{"module_path": "a/.*", "weight_qtype": "int4", "act_qtype": None}]
    program = written(folder, ".stablehlo", lambda p: export.export_jax(p, net, chosen))
    seeds = [
        Seed(".json", manifest),
        Seed(".bin", stream),
        operations,
        Seed(".json", json.dumps({**rules, "rules": rows}).encode()),
        program,
    ]

    def read(path: Path) -> None:
        data = path.read_bytes()
        if path.suffix == ".stablehlo":
            export.load_jax(path)
        elif path.suffix == ".bin":  # as its manifest were of it
            digest = hashlib.sha256(data).hexdigest()
            path.with_suffix(".json").write_bytes(
                manifest.replace(hashlib.sha256(stream).hexdigest().encode(), digest.encode())
            )
            export.load_packed(path.with_suffix(""), net)
        elif b"operation_bits" in data:
            export.load_operation_bits(path, net)
        elif b"qwix" in data:
            export.read_qwix_rules(path)
        else:
            path.with_suffix(".bin").write_bytes(stream)
            export.packed_bits(path.with_suffix(""), net)
            export.load_packed(path.with_suffix(""), net)

    return seeds, read


PICTURES = {"a/1.png": png(), "a/2.png": png(5, 4), "b/3.png": png(3, 9, (0, 0, 0))}


@reader(
    "nemojax.load_labelled", "nemojax.load_images", "nemojax.data.pictures", "nemojax.data.in_memory",
)  # fmt: skip
def image_places(folder: Path) -> Made:
    """Folders and archives of pictures, by folder and by labels.csv."""
    from nemojax import Preprocess, load_images, load_labelled
    from nemojax.data import in_memory, pictures

    small = Preprocess(8)
    table = {**PICTURES, "labels.csv": b"file,label\na/1.png,1\nb/3.png,0\n"}

    def read(path: Path) -> None:
        first = outcome(lambda: load_labelled(path, small, threads=1))
        second = outcome(lambda: load_images(path, small, threads=1))
        third = outcome(lambda: in_memory(pictures(path), threads=1))
        if first and second and third:
            raise first

    return [*archives(PICTURES), *archives(table)], read


@reader("nemojax.data.imagenet", "nemojax.data.class_table.class_table", "nemojax.data.cifar10")
def known_sets(folder: Path) -> Made:
    """ImageNet's folders with their table, CIFAR-10's records."""
    from nemojax.data import cifar10, imagenet
    from nemojax.data.class_table import class_table

    tree = {f"val/n0000000{i}/1.png": png() for i in range(2)}
    tree["LOC_synset_mapping.txt"] = b"n00000000 tench, fish\nn00000001 cock\n"
    records = np.zeros((2, 3073), np.uint8).tobytes()
    binary = {f"data_batch_{i}.bin": records for i in range(1, 6)}
    binary |= {"test_batch.bin": records, "batches.meta.txt": "\n".join("abcdefghij").encode()}
    sorted_ = {f"{part}/{name}/1.png": png(32, 32) for part in ("train", "test") for name in "abcdefghij"}
    seeds = [archives(tree)[3], *archives(binary)[:2], archives(sorted_)[0]]
    seeds += [
        Seed(".txt", tree["LOC_synset_mapping.txt"]),
        Seed(".csv", b"wnid,label,name\nn00000001,0,a b\n"),
    ]

    def read(path: Path) -> None:
        if path.suffix in (".txt", ".csv"):
            class_table(path)
        elif path.is_dir():
            imagenet(path, classes=None)
        else:
            cifar10(path)

    return seeds, read


@reader("nemojax.preprocess.decode", "nemojax.photographs.sample_photographs")
def single_pictures(folder: Path) -> Made:
    """One picture in each format."""
    from nemojax import Preprocess
    from nemojax.preprocess import decode

    fit = Preprocess(8)
    return pictures_of_all_kinds(), lambda path: fit(decode(path.read_bytes()))


def pictures_of_all_kinds() -> list[Seed]:
    """JPEG, PNG, WebP, BMP, GIF, TIFF and PPM, in a few modes."""
    kinds = {
        "JPEG": ".jpg",
        "PNG": ".png",
        "WEBP": ".webp",
        "BMP": ".bmp",
        "GIF": ".gif",
        "TIFF": ".tif",
        "PPM": ".ppm",
    }
    found = [Seed(suffix, picture(kind)) for kind, suffix in kinds.items()]
    more = (("PNG", "P"), ("PNG", "LA"), ("PNG", "1"), ("TIFF", "CMYK"), ("JPEG", "L"), ("GIF", "P"))
    return found + [Seed(kinds[kind], picture(kind, mode)) for kind, mode in more]
