"""Evaluates terms numerically, to as many digits as a comparison needs, with fixed values for the variables.

A point is an assignment of values to all variables. Points are numbered, and the number of the point and the name of a
variable determine the variable's value. Two terms that agree at several points count as equal.
"""

from __future__ import annotations

import functools
import hashlib
from fractions import Fraction

from r1jax.rewards.math._ast import Node, OverBudget, num, walk
from r1jax.rewards.math._exact import Undefined, exact

FIRST_BITS, MOST_BITS = 224, 80_000
LARGEST_LOG2 = 2**36
_SIZES = ((0.3, 0.9), (1.1, 1.9), (2.3, 4.7), (-0.9, -0.3), (-3.1, -1.3))
# number of points: with positive letters, in all, and for terms with steps such as floor
POSITIVE, ALL, STEPS = 3, 5, 45


@functools.cache
def context():
    """Returns a private copy of mpmath's context. A change of its precision affects no other code."""
    import mpmath

    return mpmath.mp.clone()


class Numeric:
    """Evaluates terms at one point, which gives every variable a value.

    Args:
        precision: bits of the mantissa.
        point: the number of the point, from 0; see `letter`.
        ten: if True, `log` without a base is to base 10; if False, it is the natural logarithm.
        whole: names of variables that take whole numbers only.
    Attributes:
        top: the largest log2 of the values computed so far, but at least 0.
        low: the smallest log2 of the values computed so far, but at most 0.
        left_reals: True once a root or a logarithm of a negative number was taken.
    """

    def __init__(self, precision: int, point: int = 0, ten: bool = False, whole: frozenset[str] = frozenset()):
        self.mp = context()
        self.mp.prec = precision
        self.point, self.ten, self.whole = point, ten, whole
        self.top, self.low = 0, 0
        self.left_reals = False

    def of(self, node: Node):
        """Returns the value of a term, real or complex.

        Raises:
            Undefined: the term has no value at this point.
            OverBudget: a value is too large or too small.
        """
        value = self.raw(node)
        if value:
            size = int(
                max(self.mp.mag(value.real), self.mp.mag(value.imag))
                if hasattr(value, "imag") and value.imag
                else self.mp.mag(value)
            )
            if abs(size) > LARGEST_LOG2:
                raise OverBudget("size: an intermediate value is too large or too small")
            self.top, self.low = max(self.top, size), min(self.low, size)
        return value

    def raw(self, node: Node):
        mp, (kind, args) = self.mp, node
        if kind == "num":
            return mp.mpf(args[0].numerator) / args[0].denominator
        if kind == "const":
            if args[0] == "inf":
                raise Undefined
            return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[args[0]]
        if kind == "sym":
            return self.letter(args[0])
        if kind == "add":
            return sum((self.of(term) for term in args), mp.mpf(0))
        if kind == "mul":
            product = mp.mpf(1)
            for term in args:
                product *= self.of(term)
            return product
        if kind == "pow":
            return self.power(args[0], args[1])
        if kind == "fn":
            return self.function(args[0], args[1:])
        if kind == "apply":
            shown = [mp.nstr(self.of(arg), 30) for arg in args[1:]]
            return self.letter(f"{args[0]}({shown})")
        raise Undefined

    def letter(self, name: str):
        """Returns the value of the variable `name`: a fixed number, exact in binary, for each name and point."""
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest())
        if name in self.whole:
            return self.mp.mpf(2 + (digest + self.point) % 2 + 2 * (self.point % 4))
        if self.point >= ALL:  # for steps: alternate whole numbers and others
            at = digest % 83 + 7 * self.point - 60
            return self.mp.mpf(at % 83 - 40) + (0 if self.point % 2 else self.mp.mpf(digest) / 2**48)
        low, high = _SIZES[self.point]
        return self.mp.mpf(low) + self.mp.mpf(digest) / 2**48 * (self.mp.mpf(high) - self.mp.mpf(low))

    def power(self, base: Node, exponent: Node):
        mp = self.mp
        e = exact(exponent)
        b = self.of(base)
        if not b:
            if e is None or e <= 0:
                raise Undefined
            return b
        size = abs(int(mp.mag(abs(b)))) + 1
        if e is not None:
            if abs(e) * size > LARGEST_LOG2:
                raise OverBudget("size: an intermediate value is too large or too small")
            if e.denominator == 1:
                return b**e.numerator
            if e.denominator % 2 and _real(b) and b.real < 0:  # take the real root, as in school
                root = -mp.root(-b.real, e.denominator)
                return root**e.numerator
            self.left_reals |= _real(b) and b.real < 0
            return mp.root(b, e.denominator) ** e.numerator if e.denominator < 50 else b ** self.of(num(e))
        power = self.of(exponent)
        if mp.mag(abs(power)) + size.bit_length() > LARGEST_LOG2.bit_length():
            raise OverBudget("size: an intermediate value is too large or too small")
        return mp.exp(power * mp.log(b))

    def function(self, name: str, args: tuple):
        mp = self.mp
        if name in ("fact", "binom", "doublefact", "gcd", "lcm"):
            value = exact(Node("fn", (name, *args)))
            if value is not None:
                return mp.mpf(value.numerator) / value.denominator
        values = [self.of(arg) for arg in args]
        x = values[0]
        if abs(x) and mp.mag(abs(x)) > 4000:
            raise OverBudget("size: an intermediate value is too large or too small")
        try:
            value = self.elementary(name, values)
        except (ValueError, ArithmeticError) as error:  # a pole
            raise Undefined from error
        if value is None:
            raise Undefined
        return value

    def elementary(self, name: str, values: list):
        """Returns the value of the function `name`; None if the function has no value for these arguments.

        Args:
            values: the values of the function's arguments.
        Raises:
            ValueError, ArithmeticError: from mpmath, at a pole.
        """
        mp, x = self.mp, values[0]
        if name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth"):
            if name.endswith("h") and mp.mag(abs(x) + 1) > 30:
                raise OverBudget("size: an intermediate value is too large or too small")
            return getattr(mp, name)(x)
        if name.startswith("arc"):
            short = {"arccot": "acot", "arcsec": "asec", "arccsc": "acsc"}.get(name, "a" + name[3:])
            if short == "acot":
                return mp.pi / 2 - mp.atan(x)
            return getattr(mp, short)(x)
        if name in ("ln", "log", "lg"):
            if not x or (len(values) > 1 and (not values[1] or values[1] == 1)):
                raise Undefined
            self.left_reals |= _real(x) and x.real < 0
            value = mp.log(x)
            if len(values) > 1:
                return value / mp.log(values[1])
            return value / mp.log(10) if name == "lg" or (name == "log" and self.ten) else value
        if name == "cis":
            return mp.cos(x) + mp.mpc(0, 1) * mp.sin(x)
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil") and _real(x):
            near = mp.nint(x.real)
            return near if abs(x.real - near) < mp.mpf(2) ** (-mp.prec // 2) else getattr(mp, name)(x.real)
        if name == "deg":
            return x * mp.pi / 180
        if name == "percent":
            return x / 100
        if name in ("max", "min") and all(_real(v) for v in values):
            return (max if name == "max" else min)(v.real for v in values)
        if name in ("sgn", "sign") and _real(x):
            return mp.sign(x.real)
        if name == "doublefact" and _real(x) and x == mp.nint(x) and 0 <= x < 10**4:
            return mp.fac2(x)
        if name == "fact" and abs(x) < 10**4:
            return mp.gamma(x + 1)
        if name == "binom" and all(abs(v) < 10**4 for v in values):
            return mp.binomial(*values)
        return None


def _real(value) -> bool:
    return not getattr(value, "imag", 0)


def real(value, slack: int) -> bool:
    """Returns True if a value is real, up to rounding error.

    Args:
        slack: number of bits by which the imaginary part must be smaller than the value.
    """
    mp = context()
    return _real(value) or mp.mag(value.imag) < mp.mag(abs(value)) - slack


def whole_letters(*nodes: Node) -> frozenset[str]:
    """Returns the variables in the terms that can only be whole numbers, like n in (-1)^n or n!."""
    found = set()
    for node in nodes:
        for part in walk(node):
            if part.kind == "pow" and part.args[0].kind == "num" and part.args[0].args[0] < 0:
                found |= {n.args[0] for n in walk(part.args[1]) if n.kind == "sym"}
            elif part.kind == "fn" and part.args[0] in ("fact", "doublefact", "binom"):
                found |= {n.args[0] for n in walk(part) if n.kind == "sym"}
    return frozenset(found)


def agree(a: Node, b: Node, point: int, ten: bool, whole: frozenset[str], letters: bool) -> bool | None:
    """Returns True if two terms have the same value at a point, False if not.

    Returns None if the values differ, but perhaps only because a root or logarithm has several branches. This may be so
    if variables can be negative at this point, and the root or logarithm of a negative number was taken.

    Values that agree are computed and compared again with more bits if the range of the intermediate values requires
    it. Values of terms without variables are always computed again.

    Args:
        point, ten, whole: as in `Numeric`.
        letters: True if the terms have variables.
    Raises:
        Undefined: a term has no value at this point.
        OverBudget: a value is too large, or the comparison needs too many digits.
    """
    precision, last = FIRST_BITS, None
    while True:
        numeric = Numeric(precision, point, ten, whole)
        x, y = numeric.of(a), numeric.of(b)
        gap = abs(x - y)
        if gap and numeric.mp.mag(gap) > numeric.top - precision * 3 // 4:
            if letters and point >= POSITIVE and numeric.left_reals:
                return None  # another branch of a root or logarithm, outside the usual domain
            return False
        enough = (0 if letters else 900) + 2 * (numeric.top - numeric.low)
        if precision >= enough or (last and last[1] - numeric.low > 0.9 * (precision - last[0])):
            return True  # the smallest value shrinks as precision grows, so it is zero
        last = precision, numeric.low
        if enough > MOST_BITS:
            raise OverBudget(f"digits: the comparison needs more than {MOST_BITS} bits")
        precision = enough


def rounds_to(decimal: Fraction, places: int, node: Node, ten: bool = False) -> bool:
    """Returns True if a term's value equals `decimal`, once the value is cut or rounded to `places` digits.

    Args:
        decimal: the decimal as an exact fraction.
        places: number of digits of `decimal` after its point.
        node: the term, without variables.
        ten: if True, `log` without a base is to base 10; if False, it is the natural logarithm.
    """
    numeric = Numeric(FIRST_BITS + 4 * places)
    numeric.ten = ten
    value = numeric.of(node)
    if not real(value, 100):
        return False
    over = (abs(value.real) - abs(numeric.mp.mpf(decimal.numerator) / decimal.denominator)) * 10**places
    # from 15 places on, the last digit may come from rounding to a binary fraction
    return (-0.5 if places < 15 else -1) <= over < 1 and (decimal < 0) == (value.real < 0)
