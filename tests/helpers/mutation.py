"""Damage to bytes, a function of a seed."""

import random

_EXTREMES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    0x7FFFFFFFFFFFFFFF,
    0xFFFFFFFFFFFFFFFF,
]
_TEXTS = [
    b'"',
    b',',
    b'\n',
    b'nan',
    b'1e999',
    b'-1',
    b'99999999999999999999',
    b'../',
    b'\0',
    b'\xff',
    b'[' * 2000,
    b'{}',
    b'null',
    b'true',
    b' ',
]


def mutate(data: bytes, seed: int) -> bytes:
    """One to four changes: bits, bytes, numbers at their limits,
    pieces cut, doubled, moved, texts put in.
    """
    rng, data = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([1, 2, 4, 8, 32, 256]))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice([1, 2, 4, 8])
            number = (rng.choice(_EXTREMES) & (1 << 8 * width) - 1).to_bytes(
                width, rng.choice(['little', 'big'])
            )
            data[at : at + width] = number
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            data[at:at] = data[at:end]
        elif kind == 5:
            place = rng.randrange(len(data) + 1)
            data[place:place] = data[at:end]
        elif kind == 6:
            data[at:at] = rng.choice(_TEXTS)
        else:
            del data[at:]
    return bytes(data)
