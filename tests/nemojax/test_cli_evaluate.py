"""`nemojax evaluate --network NAME --imagenet DIR`: figures against plain loops, every refusal one line."""

import csv
import io
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import nemojax as nemo
from nemojax import networks
from nemojax.cli_evaluate import evaluate_dataset
from nemojax.data.parts import report_and_calibration
from nemojax.evaluation import wilson_interval

SCHEMA = Path(nemo.__file__).parent / "schemas" / "evaluation.schema.json"
WNIDS = tuple(f"n0{i:07}" for i in range(20, 32))
BY_NAME = networks.by_name
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate_dataset)


def run(*arguments) -> tuple[str, str]:
    """Standard output and standard error; raises what the command raises."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def refused(*arguments) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def apply(params, x):
    hidden = jnp.maximum(x.reshape(len(x), -1) @ params["first"], 0)
    return hidden @ params["second"]


def small_network(resolution: int = 16) -> nemo.Network:
    """Two dense layers and 1,000 classes."""
    rng = np.random.default_rng(0)
    shapes = {"first": (3 * resolution**2, 24), "second": (24, 1000)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return nemo.Network("small", apply, params, nemo.Preprocess(resolution), "drawn for this test")


@pytest.fixture(autouse=True, scope="module")
def zoo():
    """Holds the one small network."""

    def by_name(name, weights=None, key=None, *, resolution=None, classes=None):
        if name != "small":
            raise ValueError(f"network {name!r} is not known")
        return small_network(resolution or 16)

    patch = pytest.MonkeyPatch()
    patch.setattr(networks, "by_name", by_name)
    patch.setitem(networks.NETWORKS, "none", small_network)
    yield
    patch.undo()


def layout(root: Path, part: str, each: int, seed: int) -> None:
    for c, wnid in enumerate(WNIDS):
        (root / part / wnid).mkdir(parents=True)
        for i in range(each):
            noise = np.random.default_rng([seed, c, i]).integers(0, 255, (21, 26, 3), np.uint8)
            Image.fromarray(noise).save(root / part / wnid / f"{i}.png")


@pytest.fixture(scope="module")
def val_only(tmp_path_factory) -> Path:
    """48 pictures of 12 of the 1,000 classes."""
    root = tmp_path_factory.mktemp("val")
    layout(root, "val", 4, 0)
    (root / "classes.csv").write_text(
        "wnid,label\n" + "".join(f"{w},{83 * c}\n" for c, w in enumerate(WNIDS))
    )
    return root


def command(root: Path, *more) -> list:
    return ["--network", "small", "--imagenet", root, "--classes", root / "classes.csv", *more]


def logits(pictures, bits=None, calibration=None) -> np.ndarray:
    """Without any pipeline."""
    net = small_network()
    x = np.stack([net.preprocess(pictures.picture(i)) for i in range(len(pictures))])
    if bits is None:
        return np.asarray(jax.jit(net.apply)(net.params, x))
    held = np.stack([net.preprocess(calibration.picture(i)) for i in range(len(calibration))])
    quantized = nemo.quantize(net, held)
    row = jnp.full((len(quantized.workload.points),), bits, jnp.int32)
    return np.asarray(jax.jit(nemo.QuantizedNetwork.quantized_logits)(quantized, row, x))


def misses(found: np.ndarray, labels: np.ndarray, k: int) -> int:
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    return int((order != labels[:, None]).all(axis=1).sum())


def test_full_precision_needs_no_calibration(val_only, tmp_path):
    out, err = run(*command(val_only, "--batch", 10, "--json", tmp_path / "o.json"))
    pictures = nemo.data.imagenet(val_only, table=val_only / "classes.csv")
    np.testing.assert_array_equal(pictures.labels, np.repeat(83 * np.arange(12), 4))
    found = logits(pictures)
    document = json.loads((tmp_path / "o.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["images"] == 48
    row = document["configurations"]["full precision"]
    for k in (1, 5):
        count = misses(found, pictures.labels, k)
        assert row[f"top{k}_error"] == count / 48
        np.testing.assert_allclose(row[f"top{k}_interval"], wilson_interval(np.array(count), 48))
    assert (row["model_ratio"], "kl" in row) == (1, False)
    header, line, *_ = out.splitlines()
    assert header.split() == [
        *("top1_error", "95", "%", "interval", "top5_error", "95", "%", "interval"),
        *("model_ratio", "bitops_max", "bitops_product"),
    ]
    assert line.startswith("full precision")
    assert f"{row['top1_interval'][0]:.4f}-{row['top1_interval'][1]:.4f}" in line
    assert "48 images in" in out
    assert "no calibration" in out
    assert err.splitlines()[0].startswith("making the network")
    assert "evaluate 48/48 images" in err


@pytest.mark.long
def test_configurations_are_calibrated_on_images_that_are_not_reported(val_only, tmp_path):
    out, _ = run(*command(val_only, "--calibration", 6, "--json", tmp_path / "o.json", "--", 4, 8))
    pictures = nemo.data.imagenet(val_only, table=val_only / "classes.csv")
    parts = report_and_calibration(pictures, None, calibration=6)
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["images"] == len(parts.report) == 42
    assert "calibrated on 6 of the images, which are left out of the report" in out
    assert list(document["configurations"]) == ["full precision", "4", "8"]
    for name, bits in (("full precision", None), ("4", 4), ("8", 8)):
        found = logits(parts.report, bits, parts.calibration)
        row = document["configurations"][name]
        for k in (1, 5):
            assert abs(row[f"top{k}_error"] - misses(found, parts.report.labels, k) / 42) < 1e-9, name
    ratios = [row["bitops_max"] for row in document["configurations"].values()]
    np.testing.assert_allclose(ratios, [1, 0.125, 0.25], rtol=1e-5)
    kl = [row["kl"] for row in document["configurations"].values()]
    assert kl[0] == 0 < kl[2] < kl[1]


@pytest.mark.long
def test_calibration_images_come_from_train_where_it_is(val_only, tmp_path):
    root = tmp_path / "both"
    layout(root, "train", 2, 1)
    (root / "val").symlink_to(val_only / "val")
    (root / "classes.csv").write_text((val_only / "classes.csv").read_text())
    out, _ = run(
        *command(root, "--calibration", 6, "--seed", 3, "--report", 20, "--json", tmp_path / "o.json", 3)
    )
    table = root / "classes.csv"
    found, train = (nemo.data.imagenet(root, part, table=table) for part in ("val", "train"))
    parts = report_and_calibration(found, train, calibration=6, report=20, seed=3)
    row = json.loads((tmp_path / "o.json").read_text())["configurations"]["3"]
    own = logits(parts.report, 3, parts.calibration)
    assert row["top5_error"] == misses(own, parts.report.labels, 5) / 20
    assert "20 images in" in out
    assert "calibrated on 6 images of the training part" in out


def test_a_file_of_a_search(val_only, tmp_path):
    quantized = nemo.quantize(small_network(), np.ones((1, 16, 16, 3), np.float32))
    names = quantized.workload.point_names
    bits = np.random.default_rng(0).integers(2, 9, len(names))
    run_settings = {"run": {"activation_range": "minmax"}}
    nemo.save_bits(tmp_path / "a.json", nemo.Configuration(bits, names, {}, settings=run_settings))
    out, _ = run(*command(val_only, "--calibration", 6, tmp_path / "a.json", 8))
    pictures = nemo.data.imagenet(val_only, table=val_only / "classes.csv")
    parts = report_and_calibration(pictures, None, calibration=6)
    net = small_network()
    x, held = (
        np.stack([net.preprocess(part.picture(i)) for i in range(len(part))])
        for part in (parts.report, parts.calibration)
    )
    quantized = nemo.quantize(net, held, nemo.QuantizerConfig(activation_range="minmax"))
    own = np.asarray(quantized.quantized_logits(jnp.asarray(bits, jnp.int32), x))
    line = next(line for line in out.splitlines() if line.startswith(str(tmp_path / "a.json")))
    assert line.split()[1] == f"{misses(own, parts.report.labels, 1) / 42:.4g}"
    in_python = {"quantizers": {"activation_range": "minmax", "symmetric_weights": True}}
    nemo.save_bits(tmp_path / "p.json", nemo.Configuration(bits, names, {}, settings=in_python))
    out, _ = run(*command(val_only, "--calibration", 6, tmp_path / "p.json"))
    quantized = nemo.quantize(net, held, nemo.QuantizerConfig(**in_python["quantizers"]))
    own = np.asarray(quantized.quantized_logits(jnp.asarray(bits, jnp.int32), x))
    line = next(line for line in out.splitlines() if line.startswith(str(tmp_path / "p.json")))
    assert line.split()[1] == f"{misses(own, parts.report.labels, 1) / 42:.4g}"
    nemo.save_bits(tmp_path / "b.json", nemo.Configuration(bits, names, {}, settings={"run": {}}))
    said = refused(*command(val_only, tmp_path / "a.json", tmp_path / "b.json"))
    assert "b.json was searched with other quantizers than" in said
    nemo.save_bits(tmp_path / "c.json", nemo.Configuration(bits[1:], names[1:], {}))
    assert "bits lacks" in refused(*command(val_only, "--calibration", 6, tmp_path / "c.json"))


def test_what_is_wrong_is_said_in_one_line(val_only, tmp_path):
    (tmp_path / "there.json").write_text("{}")
    for arguments, message in (
        (["--network", "small"], "--imagenet DIR is missing"),
        (["--imagenet", val_only], "--network NAME is missing"),
        (["--network", "other", "--imagenet", val_only, "--weights", "w"], "network 'other' is not known"),
        (["--network", "none", "--imagenet", val_only], "--weights FILE is missing, and none has none to"),
        (["--network", "small", "--imagenet", tmp_path / "no"], "no such folder"),
        (
            ["--network", "small", "--imagenet", val_only],
            "has 12 of 1000 wnids, so their order says no class",
        ),
        (command(val_only, "--calibration", 0), "--calibration must be at least 1 image, got 0"),
        (command(val_only, "--batch", 0), "--batch must be at least 1 image, got 0"),
        (command(val_only, "--report", 49), "report must be 1-48 images, which there are, got 49"),
        (command(val_only, "--calibration", 48, 8), "calibration takes 48 of 48 images and leaves none"),
        (command(val_only, 1), "CONFIGURATION is 1 bits: give 2-16"),
        (command(val_only, 17), "CONFIGURATION is 17 bits: give 2-16"),
        (command(val_only, 8, 8), "CONFIGURATION 8 is given twice"),
        (command(val_only, "no.json"), "no.json: cannot be read"),
        (command(val_only, "--json", tmp_path / "there.json"), "there.json exists: give another name"),
        (
            command(val_only, "--json", tmp_path / "no" / "it.json"),
            "it.json: its folder is missing",
        ),
        (command(val_only, "--threads", 0), "threads must be at least 1, got 0"),
    ):
        assert message in refused(*arguments)


def test_a_damaged_picture_is_named(val_only, tmp_path):
    root = tmp_path / "set"
    layout(root, "val", 1, 0)
    (root / "classes.csv").write_text((val_only / "classes.csv").read_text())
    wrong = root / "val" / WNIDS[7] / "0.png"
    wrong.write_bytes(wrong.read_bytes()[:500])
    assert refused(*command(root, "--json", tmp_path / "o.json")).startswith(f"{wrong}: cannot be decoded")
    assert not (tmp_path / "o.json").exists()


def test_a_network_of_other_channels_or_outputs(val_only, monkeypatch):
    def grey(params, x):
        return x[..., 0].reshape(len(x), -1) @ params

    preprocess = nemo.Preprocess(16)
    for apply, message in (
        (grey, "odd takes no images (1, 16, 16, 3)"),
        (lambda params, x: x, "odd gives an array (1, 16, 16, 3), not logits (N, classes)"),
    ):
        net = nemo.Network("odd", apply, jnp.zeros((3, 5)), preprocess)
        monkeypatch.setattr(networks, "by_name", lambda *_, net=net, **__: net)
        assert message in refused(*command(val_only))


@pytest.fixture
def photographs(data_dir, tmp_path) -> Path:
    """The 500 photographs as an ImageNet validation folder."""
    with zipfile.ZipFile(data_dir / "imagenet_samples" / "images.zip") as archive:
        table = archive.read("labels.csv").decode()
        for row in csv.DictReader(io.StringIO(table)):
            (tmp_path / "val" / row["wnid"]).mkdir(parents=True)
            (tmp_path / "val" / row["wnid"] / row["file"]).write_bytes(archive.read(row["file"]))
    (tmp_path / "classes.csv").write_text(table)
    return tmp_path


@pytest.mark.slow
def test_the_500_photographs(photographs, monkeypatch):
    """The figures that PyTorch has on them, as in test_efficientnet_lite; and those of 8 bits are near."""
    monkeypatch.setattr(networks, "by_name", BY_NAME)
    where = ["--network", "efficientnet_lite0", *("--imagenet", photographs)]
    where += ["--classes", photographs / "classes.csv"]
    run(*where, "--json", photographs / "o.json")
    document = json.loads((photographs / "o.json").read_text())
    row = document["configurations"]["full precision"]
    assert document["images"] == 500
    assert (round(1 - row["top1_error"], 4), round(1 - row["top5_error"], 4)) == (0.880, 0.968)
    run(*where, "--calibration", 64, "--json", photographs / "8.json", 8)
    document = json.loads((photographs / "8.json").read_text())
    assert document["images"] == 436
    assert document["configurations"]["8"]["disagreement"] < 0.06
