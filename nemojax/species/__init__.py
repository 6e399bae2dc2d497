"""The species of NEMO by name."""

from collections.abc import Callable

from .direct import continuous as continuous, floor as floor
from .graph import gcn as gcn, mlp as mlp, unet as unet
from .joint import joint_gcn as joint_gcn, joint_mlp as joint_mlp, joint_unet as joint_unet
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
    "joint_gcn": joint_gcn,
    "joint_unet": joint_unet,
    "joint_mlp": joint_mlp,
    **STRATEGIES,
}
"""Name -> maker of a species; the first four are published. More entries may be added.

Those of the names "joint_..." are for tasks of `joint`.
"""
