"""How other programs name and lay out the tensors of a network.

A `Layout` is a table: for every layer here, the name of that layer there. What all networks of one program
share (names of the tensors inside a layer, order of axes, prefixes) is a `Convention`. A network is added
by writing its tables.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Path = tuple[str, ...]  # of a variable in Flax: ("params", "blocks_0", "expand", "kernel")
Modules = Callable[[Any], Iterator[tuple[str, str]]]  # config -> (layer here "blocks_0.expand", layer there)


class Convention(NamedTuple):
    """What is alike for all networks of one program."""

    leaf: Callable[[Path], str]  # what follows the layer's name, with its separator
    axes: Callable[[Path, int], tuple[int, ...]]  # the file's axes in Flax's order; (path, number of axes)
    rename: Callable[[Mapping[str, np.ndarray]], dict[str, str]]  # name in the file -> name in the table


@dataclass(frozen=True)
class Layout:
    """One program's names of one network."""

    title: str  # of the program, for messages
    convention: Convention
    modules: Modules | None = None  # None: paths of Flax, "params/blocks_0/expand/kernel"
    config: Mapping[str, Any] = field(default_factory=dict)  # what else its networks do: fields of the config
    ignored: str = r"(?!)"  # pattern of tensors that may be there and are not read
    reversed_inputs: str = ""  # layer whose input channels are in reverse: blue, green, red

    def names(self, config: Any, paths: Mapping[Path, tuple[int, ...]]) -> dict[str, Path]:
        """Name in the table -> path of the variable."""
        if self.modules is None:
            return {"/".join(path): path for path in paths}
        layers = dict(self.modules(config))
        return {layers[".".join(path[1:-1])] + self.convention.leaf(path): path for path in paths}


def _is_norm(path: Path) -> bool:
    return path[-2].endswith(("_bn", "_norm"))


def _identity(path: Path, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim))


# PyTorch

_TORCH_LEAVES = {
    "kernel": ".weight",
    "embedding": ".weight",
    "scale": ".weight",
    "bias": ".bias",
    "mean": ".running_mean",
    "var": ".running_var",
}


def _torch_axes(path: Path, ndim: int) -> tuple[int, ...]:
    """OIHW kernels to HWIO, the matrix of a dense layer transposed."""
    if path[-1] != "kernel":
        return _identity(path, ndim)
    return {4: (2, 3, 1, 0), 2: (1, 0)}[ndim]


def _torch_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Without the prefix of DataParallel and of torch.compile."""
    return {name: re.sub(r"^((module|_orig_mod)\.)+", "", name) for name in tensors}


def _bert_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Without the prefix of the encoder; the gamma and beta of older files as PyTorch calls them."""
    out = {}
    for name, plain in _torch_names(tensors).items():
        plain = plain.removeprefix("bert.")
        out[name] = re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", plain))
    return out


TORCH = Convention(lambda path: _TORCH_LEAVES[path[-1]], _torch_axes, _torch_names)
HUGGING_FACE = TORCH._replace(rename=_bert_names)
COUNTER = r".*\.num_batches_tracked"  # batches that PyTorch's batch norm has seen


# Keras

_KERAS_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_KERAS_ORDER = {"kernel": 0, "scale": 0, "bias": 1, "mean": 2, "var": 3}


def _keras_axes(path: Path, ndim: int) -> tuple[int, ...]:
    """Depthwise kernels are HWC1 there, HW1C here."""
    return (0, 1, 3, 2) if path[-1] == "kernel" and path[-2] == "depthwise" else _identity(path, ndim)


def _keras_leaf(path: Path) -> str:
    return "/" + (_KERAS_NORM[path[-1]] if _is_norm(path) else path[-1])


def _keras_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Layer and variable without the models around them; the only dense layer is the classifier."""
    out = {}
    dense = [name for name, array in tensors.items() if array.ndim == 2]
    for name in tensors:
        layer, variable = ["", *name.split("/")][-2:]
        variable = variable.split(":")[0].removeprefix("depthwise_")
        if len(dense) == 1 and name.rpartition("/")[0] == dense[0].rpartition("/")[0]:
            layer = CLASSIFIER
        out[name] = f"{layer}/{variable}"
    return out


def _counted_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: "/".join(name.split("/")[-3:]) for name in tensors}


CLASSIFIER = "classifier"  # the name in Keras tables of a network's last layer, which users name freely
KERAS = Convention(_keras_leaf, _keras_axes, _keras_names)  # .h5 of `model.save` and of Keras 2
KERAS_COUNTED = Convention(  # .keras and .weights.h5 of Keras 3
    lambda path: f"/vars/{_KERAS_ORDER[path[-1]]}", _keras_axes, _counted_names
)


def counted(modules: Modules) -> Modules:
    """Names by kind and number, as Keras 3 stores layers: conv2d, conv2d_1, ... in the order of the model."""

    def names(config: Any) -> Iterator[tuple[str, str]]:
        seen: dict[str, int] = {}
        for here, _ in modules(config):
            kind = _kind(here.split(".")[-1])
            seen[kind] = number = seen.get(kind, -1) + 1
            yield here, f"{kind}_{number}" if number else kind

    return names


def _kind(layer: str) -> str:
    if layer.endswith("_bn"):
        return "batch_normalization"
    return {"depthwise": "depthwise_conv2d", "classifier": "dense"}.get(layer, "conv2d")


# Ours: of `save_weights`

OURS = Layout(
    "frugaljax", Convention(lambda path: path[-1], _identity, lambda tensors: {n: n for n in tensors})
)
