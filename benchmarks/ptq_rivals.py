"""AIMET (Qualcomm's quantization toolkit for PyTorch) on the same network, weights and photographs.

Its own model preparer, folding of batch norms and default placement of quantizers, which is ours: none
between a convolution and the activation function behind it. Weights are symmetric, as its defaults have them,
and not where an option says so: ours are not.
  plain      its range setters: minimum to maximum, and `tf_enhanced`, by the ratio of signal to noise
  CLE        cross-layer equalization, which puts ReLU in the place of ReLU6
  seq_mse    ranges of weights chosen one layer after the other by the error of its output
  adaround   learned rounding, with the numbers of steps and samples given
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemojax.networks.pretrained import lite0_file

from . import zoo_torch

LOWEST = 2  # bits of weights
ASYMMETRIC = " asymmetric"  # at the end of an option's name


class Aimet:
    """EfficientNet-Lite0 at one resolution; `images` are channels-last, normalised."""

    def __init__(self, resolution: int, calibration: np.ndarray, per_channel: bool):
        zoo_torch.torchvision()  # which AIMET imports, mended where it lacks operators
        from aimet_torch import batch_norm_fold, cross_layer_equalization, model_preparer
        from aimet_torch.common import quantsim_config

        folder = Path(quantsim_config.__file__).parent
        self.config = folder / f"default_config{'_per_channel' if per_channel else ''}.json"
        batch = next(size for size in (20, 16, 10, 8, 1) if len(calibration) % size == 0)
        self.batches = _tensor(calibration).split(batch)  # which AIMET wants of equal size
        self.dummy = self.batches[0][:1]
        self.models = {}
        for equalized in (False, True):
            model = zoo_torch.lite(0, resolution)
            zoo_torch.load(model, torch.load(lite0_file(), weights_only=True))
            model = model_preparer.prepare_model(model.eval())
            if equalized:  # folds batch norms itself
                cross_layer_equalization.equalize_model(model, dummy_input=self.dummy)
            else:
                batch_norm_fold.fold_all_batch_norms(model, None, dummy_input=self.dummy)
            self.models[equalized] = model.eval()

    @torch.no_grad()
    def full_precision(self, images: np.ndarray) -> np.ndarray:
        return self._run(self.models[False], images)

    def logits(
        self, option: str, weight_range: str, bits: tuple[int, int], images: np.ndarray, steps: int, seed: int
    ) -> np.ndarray:
        """Of images at (weights', activations') bits; `weight_range` is "minmax" or "mse"."""
        from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
        from aimet_torch.common.defs import QuantScheme
        from aimet_torch.quantsim import QuantizationSimModel
        from aimet_torch.seq_mse import apply_seq_mse

        torch.manual_seed(seed)
        symmetric, option = not option.endswith(ASYMMETRIC), option.removesuffix(ASYMMETRIC)
        config = json.loads(self.config.read_text())
        config["defaults"]["params"]["is_symmetric"] = str(symmetric)
        scheme = {
            "minmax": QuantScheme.post_training_tf,
            "mse": QuantScheme.post_training_tf_enhanced,
        }[weight_range]
        model = self.models[option == "CLE"]
        with tempfile.TemporaryDirectory() as folder:
            config_file = str(Path(folder, "config.json"))
            Path(config_file).write_text(json.dumps(config))
            if option == "adaround":
                params = AdaroundParameters(self.batches, len(self.batches), default_num_iterations=steps)
                model = Adaround.apply_adaround(
                    model,
                    self.dummy,
                    params,
                    folder,
                    "rounded",
                    default_param_bw=bits[0],
                    default_quant_scheme=scheme,
                    default_config_file=config_file,
                )
            sim: Any = QuantizationSimModel(
                model,
                self.dummy,
                quant_scheme=scheme,
                config_file=config_file,
                default_param_bw=bits[0],
                default_output_bw=bits[1],
            )
            if option == "adaround":
                sim.set_and_freeze_param_encodings(str(Path(folder, "rounded.encodings")))
        if option == "seq_mse":
            apply_seq_mse(sim, self.batches, num_candidates=20)
        sim.compute_encodings(lambda m: [m(batch) for batch in self.batches])
        with torch.no_grad():
            return self._run(sim.model, images)

    def _run(self, model: Any, images: np.ndarray) -> np.ndarray:
        return torch.cat([model(batch) for batch in _tensor(images).split(16)]).numpy()


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()
