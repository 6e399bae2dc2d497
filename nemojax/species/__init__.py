"""The species of NEMO by name."""

from collections.abc import Callable

from .direct import continuous as continuous, floor as floor
from .graph import gcn as gcn, mlp as mlp, unet as unet
from .priced import priced as priced
from .protocol import Setting as Setting, Species as Species
from .strategies import STRATEGIES, TRUSTED as TRUSTED, strategy as strategy

SPECIES: dict[str, Callable[[Setting], Species]] = {
    "continuous": continuous,
    "floor": floor,
    "gcn": gcn,
    "unet": unet,
    "mlp": mlp,
    "priced": priced,
    **STRATEGIES,
}
"""Name -> maker of a species; the first four are published. More entries may be added."""
