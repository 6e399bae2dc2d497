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
        assert np.mean(said == pictures.test.labels) == pytest.approx(model.accuracy, abs=0.1)
    assert "Edge camera" in (tmp_path / "report.html").read_text(encoding="utf-8")


def own_folders(folder, frames):
    """Two classes in `shown` and `labelled`, and frames that get brighter from file to file."""
    from PIL import Image

    rng = np.random.default_rng(0)

    def picture(path, shade):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(shade + rng.normal(0, 8, (40, 40, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    for place, count in (("shown", 3), ("labelled", 4)):
        for label, shade in (("dark", 40), ("light", 210)):
            for i in range(count):
                picture(folder / place / label / f"{i}.png", shade)
    for i in range(frames):
        picture(folder / "unlabelled" / f"{i:03}.png", 20 + 200 * i / frames)
    return ["--support", str(folder / "shown"), "--frames", str(folder / "unlabelled")]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_edge_camera_with_pictures_of_ones_own_and_samples_made_of_them(tmp_path):
    """The page's second command, with a Delta-encoder."""
    import jax

    pytest.importorskip("onnxruntime")
    camera = example("edge_camera")
    words = own_folders(tmp_path, 24)
    test = camera.own_pictures(camera.QUICK, *(camera.Path(tmp_path, n) for n in FOLDERS)).test
    words += ["--test", str(tmp_path / "labelled"), "--out", str(tmp_path / "out"), "--learner", "delta"]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        models = camera.main([*words, "--quick"])
    for chip, model in models.items():
        assert json.loads((tmp_path / "out" / chip / "classes.json").read_text()) == ["dark", "light"]
        said = answers(tmp_path / "out" / chip / "classifier.onnx", camera, test.images)
        assert np.mean(said == test.labels) == pytest.approx(model.accuracy, abs=0.13)
    assert (tmp_path / "out" / "report.html").exists()


def test_frames_of_ones_own_are_drawn_from_all(tmp_path, capsys):
    camera = example("edge_camera")
    words = own_folders(tmp_path, 90)
    shown, frames = (camera.Path(words[i]) for i in (1, 3))
    pictures = camera.own_pictures(camera.QUICK, shown, frames, None)
    assert pictures.frames.shape == (24, 32, 32, 3)
    assert "24 of 90 pictures" in capsys.readouterr().out
    first = camera.calibration(pictures)
    means = pictures.frames.mean(axis=(1, 2, 3))
    assert abs(means[:first].mean() - means[first:].mean()) < 45  # by their files' names it would be 93
    for i in range(3, 90):
        (frames / f"{i:03}.png").unlink()
    with pytest.raises(SystemExit, match="unlabelled holds 3 pictures: give at least 12"):
        camera.own_pictures(camera.QUICK, shown, frames, None)


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
