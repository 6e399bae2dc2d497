"""What the answer of an `on_chunk` means, in all loops of these packages."""

import numpy as np


def wants_stop(answer: object) -> bool:
    """Whether a run is to end: True, also NumPy's from a comparison, or "stop". Anything else goes on."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    return isinstance(answer, str) and answer == "stop"
