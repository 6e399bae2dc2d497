"""What all loops of these packages do with an `on_chunk`: heed its answer, and close it at the end."""

import numpy as np


def wants_stop(answer: object) -> bool:
    """Whether a run is to end: True, also NumPy's from a comparison, or "stop". Anything else goes on."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    return isinstance(answer, str) and answer == "stop"


def close_line(on_chunk: object) -> None:
    """Calls its `close`, if it has one: a progress line gives the terminal back."""
    close = getattr(on_chunk, "close", None)
    if close is not None:
        close()
