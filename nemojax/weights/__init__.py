"""Weight files as NumPy arrays, read as data only, and what other programs call a network's tensors."""

from nemojax.weights.convert import convert as convert, listed as listed
from nemojax.weights.layout import (
    CLASSIFIER as CLASSIFIER,
    COUNTER as COUNTER,
    HUGGING_FACE as HUGGING_FACE,
    KERAS as KERAS,
    KERAS_COUNTED as KERAS_COUNTED,
    OURS as OURS,
    TORCH as TORCH,
    Layout as Layout,
    counted as counted,
)
from nemojax.weights.read import (
    WeightFile as WeightFile,
    read_file as read_file,
    read_metadata as read_metadata,
    read_weights as read_weights,
)
from nemojax.weights.write import write_safetensors as write_safetensors
