"""The programs of examples/ run, and leave what they say."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    found = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_edge_camera_from_pictures_to_files_for_two_chips(tmp_path, monkeypatch):
    import jax

    import fewshotjax as fs
    import hwmodel as hw
    import nemojax as nemo

    onnxruntime = pytest.importorskip("onnxruntime")
    camera = example("edge_camera")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        models = camera.main(["--out", str(tmp_path), "--quick"])
    assert set(models) == set(camera.CHIPS)
    pictures = camera.sample_pictures(camera.QUICK)
    network = nemo.efficientnet_lite0(weights="imagenet", resolution=camera.QUICK.pixels)
    pixels = fs.Preprocess(camera.QUICK.pixels, mean=network.preprocess.mean, scale=network.preprocess.scale)
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
        # The file answers as the accuracy says that the network did.
        session = onnxruntime.InferenceSession(folder / "classifier.onnx", providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        images = np.asarray(pixels.normalize(jax.numpy.asarray(pictures.test.images)))
        said = [int(np.argmax(session.run(None, {name: image[None]})[0])) for image in images]
        assert np.mean(np.array(said) == pictures.test.labels) == pytest.approx(model.accuracy, abs=0.1)
    assert "Edge camera" in (tmp_path / "report.html").read_text(encoding="utf-8")


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
