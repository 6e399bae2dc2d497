"""The programs of examples/ run, and leave what they say."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

FOLDERS = ("shown", "unlabelled", "labelled")
EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    found = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def answers(file, camera, images):
    """Classes that an exported classifier gives to pictures of the quick run's size."""
    import jax.numpy as jnp
    import onnxruntime

    import fewshotjax as fs
    import nemojax as nemo

    side = camera.QUICK.pixels
    expects = nemo.efficientnet_lite0(weights="imagenet", resolution=side).preprocess
    pixels = fs.Preprocess(side, mean=expects.mean, scale=expects.scale)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    inputs = np.asarray(pixels.normalize(jnp.asarray(images)))
    return np.array([int(np.argmax(session.run(None, {name: image[None]})[0])) for image in inputs])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_edge_camera_from_pictures_to_files_for_two_chips(tmp_path, monkeypatch):
    import jax

    import hwmodel as hw
    import nemojax as nemo

    pytest.importorskip("onnxruntime")
    camera = example("edge_camera")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        models = camera.main(["--out", str(tmp_path), "--quick"])
    assert set(models) == set(camera.CHIPS)
    pictures = camera.sample_pictures(camera.QUICK)
    for chip, model in models.items():
        folder = tmp_path / chip
        assert nemo.load_bits(folder / "bits.json").as_dict() == model.bits.as_dict()
        assert json.loads((folder / "classes.json").read_text()) == list(camera.SAMPLES)
        placed = hw.load_placement(
            folder / "placement" / "placement.json",
            model.placed.workload,
            model.placed.chip,
            model.placed.bits,
        )
        assert len(placed.addresses) == len(hw.tensors(model.placed.workload, model.placed.bits))
        said = answers(folder / "classifier.onnx", camera, pictures.test.images)
        assert np.mean(said == pictures.test.labels) == pytest.approx(model.accuracy, abs=0.035)
    assert "Edge camera" in (tmp_path / "report.html").read_text(encoding="utf-8")


def save_picture(path, pixels):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def own_folders(folder):
    """Two classes in `shown` and `labelled`, and frames of both without labels, each in its own light."""
    rng = np.random.default_rng(0)

    def picture(place, kind, light):
        stripes = np.where(np.arange(40)[:, None, None] // 5 % 2, 1.0, 0.2)
        sand = rng.uniform(size=(40, 40, 1)) * np.array([1.0, 0.5, 0.2])
        texture = {"sand": sand, "stripes": stripes}[kind]
        save_picture(folder / place, light * texture + rng.normal(0, 8, (40, 40, 3)))

    for kind in ("sand", "stripes"):
        for part, count in (("shown", 3), ("labelled", 8)):
            for i in range(count):
                picture(f"{part}/{kind}/{i}.png", kind, rng.uniform(100, 250))
    for i in range(24):
        picture(f"unlabelled/{i}.png", ("sand", "stripes")[i % 2], rng.uniform(100, 250))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_edge_camera_with_pictures_of_ones_own_and_samples_made_of_them(tmp_path):
    """The page's second command, with a Delta-encoder."""
    import jax

    pytest.importorskip("onnxruntime")
    camera = example("edge_camera")
    own_folders(tmp_path)
    places = [tmp_path / name for name in FOLDERS]
    test = camera.own_pictures(camera.QUICK, *places).test
    words = ["--out", str(tmp_path / "out"), "--learner", "delta"]
    for option, place in zip(("--support", "--frames", "--test"), places, strict=True):
        words += [option, str(place)]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        models = camera.main([*words, "--quick"])
    for chip, model in models.items():
        assert json.loads((tmp_path / "out" / chip / "classes.json").read_text()) == ["sand", "stripes"]
        said = answers(tmp_path / "out" / chip / "classifier.onnx", camera, test.images)
        assert np.mean(said == test.labels) >= 15 / 16
        assert model.accuracy >= 15 / 16
    assert (tmp_path / "out" / "report.html").exists()


def test_frames_of_ones_own_are_drawn_from_all(tmp_path, capsys):
    """A camera's files go from night to day: what calibrates must see both."""
    camera, frames = example("edge_camera"), tmp_path / "unlabelled"
    for i in range(90):
        save_picture(frames / f"{i:03}.png", np.full((40, 40, 3), 2 * i + 20))
    for name in ("a", "b"):
        save_picture(tmp_path / "shown" / name / "0.png", np.zeros((40, 40, 3)))
    pictures = camera.own_pictures(camera.QUICK, tmp_path / "shown", frames, None)
    assert pictures.frames.shape == (24, 32, 32, 3)
    assert "24 of 90 pictures" in capsys.readouterr().out
    light = pictures.frames.mean(axis=(1, 2, 3))
    assert len(np.unique(light)) == 24
    for part in np.split(light, [camera.calibration(pictures)]):
        assert part.min() < 60
        assert part.max() > 140
    for i in range(3, 90):
        (frames / f"{i:03}.png").unlink()
    with pytest.raises(SystemExit, match="unlabelled holds 3 pictures: give at least 12"):
        camera.own_pictures(camera.QUICK, tmp_path / "shown", frames, None)


def test_options_that_belong_together(tmp_path, capsys):
    camera = example("edge_camera")
    for words, told in (
        (["--test", "labelled"], "--test needs --support and --frames"),
        (["--support", "shown"], "--support and --frames go together"),
    ):
        with pytest.raises(SystemExit):
            camera.main(["--out", str(tmp_path / "out"), *words])
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_pictures_of_the_three_uses_share_no_pixel():
    pytest.importorskip("skimage")
    camera = example("edge_camera")
    pictures = camera.sample_pictures(camera.QUICK)
    assert len(pictures.support) == 5 * len(camera.SAMPLES)
    assert pictures.frames.shape == (24, 32, 32, 3)
    thirds = []

    class Picture:
        width, height = 90, 60

        def crop(self, box):
            thirds[-1].add((box[0] // 30, (box[2] - 1) // 30))
            return self

        def resize(self, size):
            return np.zeros((*size, 3), np.uint8)

    class Opened:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def convert(self, _):
            return Picture()

    camera.Image = type("Image", (), {"open": staticmethod(lambda _: Opened())})
    for part in range(3):
        thirds.append(set())
        camera.crops(np.random.default_rng(part), "any.png", part, 50, 8)
    assert thirds == [{(0, 0)}, {(1, 1)}, {(2, 2)}]
