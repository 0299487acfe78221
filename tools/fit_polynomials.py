"""Fit the polynomials of csrc/vecmath_body.h.

q(r) = (1 - exp(-r)) / r for |r| <= ln(2) / 2, with q(0) = 1 exactly: least squares of the relative error at
Chebyshev points, in 60 digits, which is within a factor of two of the minimax error.  Needs mpmath.  Prints
the coefficients, lowest degree first, as C literals, and the largest relative error of the polynomial with
these rounded coefficients.
"""

from __future__ import annotations

import struct

import mpmath
from mpmath import mp

mp.dps = 60
POINTS = 200


def q(r: mpmath.mpf) -> mpmath.mpf:
    """(1 - exp(-r)) / r, continued at 0."""
    return mpmath.mpf(1) if abs(r) < mpmath.mpf("1e-30") else -mpmath.expm1(-r) / r


def evaluate(coefficients: list[mpmath.mpf], r: mpmath.mpf) -> mpmath.mpf:
    """The polynomial at r, coefficients lowest degree first."""
    return mpmath.polyval(coefficients[::-1], r)


def fit(degree: int) -> list[mpmath.mpf]:
    """Coefficients of degree 1 to `degree`; the one of degree 0 is 1."""
    half = mpmath.log(2) / 2
    points = [half * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * POINTS)) for i in range(POINTS)]
    system = mpmath.matrix(POINTS, degree)
    wanted = mpmath.matrix(POINTS, 1)
    for row, r in enumerate(points):
        wanted[row] = (q(r) - 1) / q(r)
        for power in range(1, degree + 1):
            system[row, power - 1] = r**power / q(r)
    solution = mpmath.lu_solve(system.T * system, system.T * wanted)
    return [solution[power] for power in range(degree)]


def main() -> None:
    """Print both sets."""
    half = mpmath.log(2) / 2
    for bits, degree in ((32, 5), (64, 10)):
        rounded = [mpmath.mpf(1)]
        for value in fit(degree):
            number = float(value)
            if bits == 32:
                number = struct.unpack("f", struct.pack("f", number))[0]
            rounded.append(mpmath.mpf(number))
        grid = [half * (mpmath.mpf(i) / 1000 - 1) for i in range(2001)]
        error = max(abs(evaluate(rounded, r) / q(r) - 1) for r in grid)
        print(f"float{bits}, degree {degree}: largest relative error {mpmath.nstr(error, 3)}")
        for number in rounded:
            print(f"    {float(number).hex()}")


if __name__ == "__main__":
    main()
