"""Perlin noise pixel by pixel, in Python floats: slow, and as the textbook states it."""

import math


def lowbias32(word: int) -> int:
    """The 32-bit hash by C. Wellons, on Python integers."""
    word ^= word >> 16
    word = word * 0x7FEB352D % 2**32
    word ^= word >> 15
    word = word * 0x846CA68B % 2**32
    return word ^ (word >> 16)


def derive(key: int, number: int) -> int:
    return lowbias32((key + number * 0x9E3779B9) % 2**32)


def gradient(key: int, row: int, column: int) -> tuple[float, float]:
    """The unit vector (x, y) at a lattice point."""
    angle = 2 * math.pi * derive(derive(key, row), column) / 2**32
    return math.cos(angle), math.sin(angle)


def noise(key: int, y: float, x: float) -> float:
    """Noise at a point, in lattice cells, times the square root of two."""
    row, column = math.floor(y), math.floor(x)

    def corner(down: int, across: int) -> float:
        slope_x, slope_y = gradient(key, row + down, column + across)
        return slope_x * (x - column - across) + slope_y * (y - row - down)

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    def mix(a: float, b: float, t: float) -> float:
        return a + (b - a) * t

    top = mix(corner(0, 0), corner(0, 1), fade(x - column))
    bottom = mix(corner(1, 0), corner(1, 1), fade(x - column))
    return math.sqrt(2) * mix(top, bottom, fade(y - row))


def field(key: int, scales: tuple[float, float], height: int, width: int) -> list[list[float]]:
    """The whole image: `scales` lattice cells down and across."""
    return [
        [noise(key, row * scales[0] / height, column * scales[1] / width) for column in range(width)]
        for row in range(height)
    ]
