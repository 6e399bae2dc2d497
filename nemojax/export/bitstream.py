"""Integers of any width in one stream of bits, without gaps: element after element, lowest bit first.

Bit k of the stream is bit k % 8 of byte k // 8: a reader in C takes the lowest bits of little-endian words.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Integer

_CHUNK = 1 << 18  # elements turned into bits at a time; a multiple of 8, so that chunks end at whole bytes


def pack(tensors: Iterable[tuple[Integer[np.ndarray, " _"], int]]) -> bytes:
    """The stream of all tensors: 1-D unsigned integers below 2^bits, each with its bits (1 to 32).

    The last byte is filled up with zeros; its length is ceil(Σ k · bits / 8).
    """
    stream, filled = bytearray(), 0  # bits used
    for values, bits in tensors:
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK].astype(np.uint32)
            planes = (part[:, None] >> np.arange(bits, dtype=np.uint32)) & 1
            offset = filled % 8
            packed = np.packbits(
                np.concatenate([np.zeros(offset, np.uint8), planes.astype(np.uint8).reshape(-1)]),
                bitorder="little",
            )
            if offset and len(packed):
                stream[-1] |= int(packed[0])
                packed = packed[1:]
            stream += packed.tobytes()
            filled += len(part) * bits
    return bytes(stream)


def unpack(stream: bytes, offset: int, count: int, bits: int) -> Integer[np.ndarray, " count"]:
    """`count` unsigned integers of `bits` bits from bit `offset` on, as uint32."""
    found = np.empty(count, np.uint32)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        first = offset + start * bits
        data = np.frombuffer(stream, np.uint8)[first // 8 : -(-(first + size * bits) // 8)]
        planes = np.unpackbits(data, bitorder="little")[first % 8 : first % 8 + size * bits]
        weights = np.left_shift(np.uint32(1), np.arange(bits, dtype=np.uint32))
        found[start : start + size] = planes.reshape(size, bits).astype(np.uint32) @ weights
    return found
