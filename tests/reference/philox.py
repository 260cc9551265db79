"""Philox4x64-10 on Python integers, from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011."""

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox4x64(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One block of four 64-bit words."""
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * counter[0], _MULTIPLIERS[1] * counter[2]
        counter = (
            (second >> 64) ^ counter[1] ^ key[0],
            second % 2**64,
            (first >> 64) ^ counter[3] ^ key[1],
            first % 2**64,
        )
        key = ((key[0] + _WEYL[0]) % 2**64, (key[1] + _WEYL[1]) % 2**64)
    return counter
