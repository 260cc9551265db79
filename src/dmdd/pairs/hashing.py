"""Integer hashes in int64 tensors: random fields of any size from one key, bit-equal on every device."""

import torch
from torch import Tensor

_LOW_32_BITS = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # odd, so multiplying by it modulo 2^32 loses nothing


def _scramble(words: Tensor) -> Tensor:
    """Mix the bits of 32-bit words (lowbias32, constants by C. Wellons, "Prospecting for hash functions", 2018)."""
    words = ((words ^ (words >> 16)) * 0x7FEB352D) & _LOW_32_BITS
    words = ((words ^ (words >> 15)) * 0x846CA68B) & _LOW_32_BITS
    return words ^ (words >> 16)


def derive_key(key: Tensor, word: int | Tensor) -> Tensor:
    """Derive a new key from a key and a number.

    Args:
        key: int64 in [0, 2^32), any shape.
        word: Number or int64 tensor in [0, 2^31), broadcast against `key`.

    Returns:
        int64 in [0, 2^32), of the broadcast shape.

    Source: ours, over the hash lowbias32.
    """
    return _scramble((key + word * _GOLDEN) & _LOW_32_BITS)


def key_from_uniform(uniform: Tensor) -> Tensor:
    """Turn a plan column into the key of a random field.

    Args:
        uniform: Float64 in [0, 1) with 53 random bits, any shape.

    Returns:
        int64 in [0, 2^32), same shape, in which all 53 bits took part.

    Source: ours.
    """
    bits = (uniform * 2.0**53).to(torch.int64)
    return _scramble((bits & _LOW_32_BITS) ^ _scramble(bits >> 32))


def hash_uniform(key: Tensor, word: int | Tensor) -> Tensor:
    """Draw a uniform number from a key and a number.

    Args:
        key: int64 in [0, 2^32), any shape.
        word: Number or int64 tensor in [0, 2^31), broadcast against `key`.

    Returns:
        Float32 in [0, 1), of the broadcast shape; 24 bits, so that the conversion is exact on every device.

    Source: ours.
    """
    return (derive_key(key, word) >> 8).to(torch.float32) * 2.0**-24


def hash_uniforms(key: Tensor, count: int) -> Tensor:
    """Draw the uniform numbers of a key and the numbers from 0 on in one go: a call for each costs ten times as much.

    Args:
        key: (b,) int64 in [0, 2^32).
        count: How many.

    Returns:
        (count, b) float32 in [0, 1); row n is `hash_uniform(key, n)`.

    Source: ours.
    """
    return hash_uniform(key, torch.arange(count, device=key.device)[:, None])
