"""Training of networks on images in memory."""

from .config import TrainConfig as TrainConfig
from .train import Chunk as Chunk, Epoch as Epoch, predict as predict, train as train
