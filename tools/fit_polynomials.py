"""Fit the polynomials of csrc/vecmath_body.h: q(r) = (2**r - 1) / r for |r| <= 1/2, least relative error.

Remez exchange in 60 digits.  Needs mpmath.  Prints the coefficients, lowest degree first, as C literals
together with the largest relative error of the exact polynomial.
"""

from __future__ import annotations

import struct

import mpmath
from mpmath import mp

mp.dps = 60
GRID = 2000


def q(r: mpmath.mpf) -> mpmath.mpf:
    """(2**r - 1) / r, continued at 0."""
    return mpmath.log(2) if abs(r) < mpmath.mpf("1e-30") else (mpmath.power(2, r) - 1) / r


def evaluate(coefficients: list[mpmath.mpf], r: mpmath.mpf) -> mpmath.mpf:
    """The polynomial at r, coefficients lowest degree first."""
    return mpmath.polyval(coefficients[::-1], r)


def fit(degree: int) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """Coefficients of the minimax polynomial of that degree, and its largest relative error."""
    count = degree + 1
    points = [-mpmath.cos(mpmath.pi * i / count) / 2 for i in range(count + 1)]
    grid = [mpmath.mpf(i) / GRID - mpmath.mpf(1) / 2 for i in range(GRID + 1)]
    coefficients: list[mpmath.mpf] = []
    errors: list[mpmath.mpf] = []
    for _ in range(12):
        system = mpmath.matrix(count + 1, count + 1)
        for row, x in enumerate(points):
            for power in range(count):
                system[row, power] = x**power / q(x)
            system[row, count] = (-1) ** row
        solution = mpmath.lu_solve(system, mpmath.ones(count + 1, 1))
        coefficients = [solution[power] for power in range(count)]
        errors = [evaluate(coefficients, x) / q(x) - 1 for x in grid]
        extrema = [0]
        for index in range(1, GRID + 1):
            if (errors[index] > 0) != (errors[extrema[-1]] > 0):
                extrema.append(index)
            elif abs(errors[index]) > abs(errors[extrema[-1]]):
                extrema[-1] = index
        if len(extrema) == count + 1:
            points = [grid[index] for index in extrema]
    return coefficients, max(abs(error) for error in errors)


def main() -> None:
    """Print both sets."""
    for bits, degree in ((32, 5), (64, 10)):
        coefficients, error = fit(degree)
        print(f"float{bits}, degree {degree}: largest relative error {mpmath.nstr(error, 3)}")
        for value in coefficients:
            rounded = float(value)
            if bits == 32:
                rounded = struct.unpack("f", struct.pack("f", rounded))[0]
            print(f"    {rounded.hex()}")


if __name__ == "__main__":
    main()
