"""Fit the polynomials of csrc/kernels/simd/vecmath_body.h.

Least squares of the relative error at Chebyshev points, in 60 digits, which is within a factor of two of the
minimax error; the coefficient of degree 0 is 1 exactly.  Of two functions:

    q(r) = (1 - exp(-r)) / r   for |r| <= ln(2) / 2
    p(w) = artanh(s) / s       for w = s^2, 0 <= w <= 1/9

Needs mpmath.  Prints the coefficients, lowest degree first, as C literals, and the largest relative error
of the polynomial with these rounded coefficients.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import mpmath
from mpmath import mp

mp.dps = 60
POINTS = 200
Function = Callable[[mpmath.mpf], mpmath.mpf]


def q(r: mpmath.mpf) -> mpmath.mpf:
    """(1 - exp(-r)) / r, continued at 0."""
    return mpmath.mpf(1) if abs(r) < mpmath.mpf("1e-30") else -mpmath.expm1(-r) / r


def p(w: mpmath.mpf) -> mpmath.mpf:
    """artanh(sqrt(w)) / sqrt(w), continued at 0."""
    return mpmath.mpf(1) if w < mpmath.mpf("1e-30") else mpmath.atanh(mpmath.sqrt(w)) / mpmath.sqrt(w)


def evaluate(coefficients: list[mpmath.mpf], x: mpmath.mpf) -> mpmath.mpf:
    """The polynomial at x, coefficients lowest degree first."""
    return mpmath.polyval(coefficients[::-1], x)


def fit(function: Function, low: mpmath.mpf, high: mpmath.mpf, degree: int) -> list[mpmath.mpf]:
    """Coefficients of degree 1 to `degree` between low and high; the one of degree 0 is 1."""
    middle, half = (high + low) / 2, (high - low) / 2
    points = [middle + half * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * POINTS)) for i in range(POINTS)]
    system = mpmath.matrix(POINTS, degree)
    wanted = mpmath.matrix(POINTS, 1)
    for row, x in enumerate(points):
        value = function(x)
        wanted[row] = (value - 1) / value
        for power in range(1, degree + 1):
            system[row, power - 1] = x**power / value
    solution = mpmath.lu_solve(system.T * system, system.T * wanted)
    return [solution[power] for power in range(degree)]


def show(name: str, function: Function, low: mpmath.mpf, high: mpmath.mpf, bits: int, degree: int) -> None:
    """Print the set of one function and dtype."""
    rounded = [mpmath.mpf(1)]
    for value in fit(function, low, high, degree):
        number = float(value)
        if bits == 32:
            number = struct.unpack("f", struct.pack("f", number))[0]
        rounded.append(mpmath.mpf(number))
    grid = [low + (high - low) * mpmath.mpf(i) / 2000 for i in range(2001)]
    error = max(abs(evaluate(rounded, x) / function(x) - 1) for x in grid)
    print(f"{name}, float{bits}, degree {degree}: largest relative error {mpmath.nstr(error, 3)}")
    for number in rounded:
        print(f"    {float(number).hex()}")


def main() -> None:
    """Print all sets."""
    half = mpmath.log(2) / 2
    for bits, q_degree, p_degree in ((32, 5, 4), (64, 10, 10)):
        show("q", q, -half, half, bits, q_degree)
        show("p", p, mpmath.mpf(0), mpmath.mpf(1) / 9, bits, p_degree)


if __name__ == "__main__":
    main()
