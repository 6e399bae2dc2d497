"""Training of backbones and heads on images or features in memory."""

from .config import TrainConfig as TrainConfig
from .heads import load_head as load_head, save_head as save_head, with_head as with_head
from .loop import Chunk as Chunk, Epoch as Epoch
from .progress import ProgressLine as ProgressLine, progress as progress
from .train import Trained as Trained, train as train, train_head as train_head
