"""What an episode of a method holds alive where that is more than its examples, for the choice of a chunk."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

from .method import Method

# ways, support examples of each, features -> bytes
HeldBytes = Callable[[int, int, int], int]

_HELD: WeakKeyDictionary[Callable, HeldBytes] = WeakKeyDictionary()


def holds(method: Method, held: HeldBytes) -> Method:
    """The same method, which `held_bytes` knows from now on."""
    _HELD[method.fit] = held
    return method


def held_bytes(method: Method) -> HeldBytes | None:
    """None: nothing is known but what the examples take."""
    return _HELD.get(method.fit)
