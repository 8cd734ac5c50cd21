"""Evaluates terms exactly: to a rational number, or, if the term has variables or is too large, to a residue."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

from r1jax.rewards.math._ast import Node, OverBudget

MOST_BITS = 33_000  # about 10^4 decimal digits
PRIME = 2**128 - 159  # 1 modulo 4, so that -1 has a square root
_I = next(root for base in range(2, 99) if pow(root := pow(base, PRIME // 4, PRIME), 2, PRIME) == PRIME - 1)


class Undefined(Exception):
    """The term has no value, like 5/0. The verdict is then "wrong" with stage "undefined"."""


def bits(value: Fraction) -> int:
    """Returns the number of bits of the numerator or of the denominator, whichever has more."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def exact(node: Node) -> Fraction | None:
    """Returns the rational value of a term; None if the term has variables or is irrational.

    Raises:
        OverBudget: a number has more than about 10^4 digits.
        Undefined: a division by zero.
    """
    kind, args = node
    if kind == "num":
        return args[0]
    if kind in ("add", "mul"):
        total = None
        for term in args:
            value = exact(term)
            if value is None:
                return None
            total = value if total is None else total + value if kind == "add" else total * value
            _afford(bits(total))
        return total
    if kind == "pow":
        base, exponent = exact(args[0]), exact(args[1])
        return None if base is None or exponent is None else _power(base, exponent)
    if kind == "fn":
        return _function(args[0], args[1:])
    if kind == "apply" and args[0] == "bmod":
        return _remainder(args[1], exact(args[2]))
    return None


def _remainder(node: Node, modulus: Fraction | None) -> Fraction | None:
    """Returns the remainder of a term, also of powers too large to write out; None if a rational value is missing."""
    if not modulus:
        return None
    if node.kind == "pow":
        base, exponent = exact(node.args[0]), exact(node.args[1])
        whole = None not in (base, exponent) and {v.denominator for v in (base, exponent, modulus)} == {1}
        if whole and exponent >= 0:
            return Fraction(pow(base.numerator, exponent.numerator, modulus.numerator))
    value = exact(node)
    return None if value is None else value % modulus


def _afford(size: int) -> None:
    """Raises OverBudget, with the stage "digits", if `size` bits are too many for one number."""
    if size > MOST_BITS:
        raise OverBudget("digits")


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if base == 0:
        if exponent <= 0:
            raise Undefined
        return Fraction(0)
    if exponent.denominator != 1:
        base = _root(base, exponent.denominator)
        if base is None:
            return None
        exponent = Fraction(exponent.numerator)
    if abs(base) != 1:
        _afford(bits(base) * abs(exponent.numerator))
    return base ** (exponent.numerator if abs(base) != 1 else exponent.numerator % 2)


def _root(value: Fraction, n: int) -> Fraction | None:
    """Returns the real n-th root of a value if the root is rational; None otherwise, or if n > 64."""
    if n > 64 or (value < 0 and n % 2 == 0):
        return None
    parts = []
    for part in (abs(value.numerator), value.denominator):
        guess = math.isqrt(part) if n == 2 else _integer_root(part, n)
        if guess**n != part:
            return None
        parts.append(guess)
    return Fraction(-parts[0] if value < 0 else parts[0], parts[1])


def _integer_root(value: int, n: int) -> int:
    if value < 2:
        return value
    guess = 1 << -(-value.bit_length() // n)
    while (better := ((n - 1) * guess + value // guess ** (n - 1)) // n) < guess:
        guess = better
    return guess


def _function(name: str, args: tuple) -> Fraction | None:
    values = [exact(arg) for arg in args]
    if any(value is None for value in values):
        return None
    value = values[0]
    if name == "percent":
        return value / 100
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        return Fraction(getattr(math, name)(value))
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name in ("sgn", "sign"):
        return Fraction((value > 0) - (value < 0))
    if any(v.denominator != 1 for v in values):
        return None
    whole = [v.numerator for v in values]
    if name in ("gcd", "lcm"):
        return Fraction(getattr(math, name)(*whole))
    if name in ("fact", "doublefact"):
        if whole[0] < 0:
            raise Undefined
        _afford(whole[0] * max(1, whole[0].bit_length() - 1))
        return Fraction(math.factorial(whole[0]) if name == "fact" else math.prod(range(whole[0], 0, -2)))
    if name == "binom":
        n, k = whole
        if n < 0 or k < 0:
            return None
        _afford(min(k, max(n - k, 0)) * n.bit_length())
        return Fraction(math.comb(n, k))
    return None


class Residues:
    """Evaluates terms modulo `PRIME`.

    The value of a variable is a pseudo-random residue, which the variable's name and the seed determine. A constant
    such as π, or a function or root without a rational value, counts as one more variable, called an atom. Two terms
    with equal residues are equal, except with probability 2^-100. Two terms with different residues differ for sure
    only if neither needed an atom.

    Attributes:
        pure: True if no atom was needed so far.
    """

    def __init__(self, seed: int = 0):
        self.seed, self.pure = seed, True

    def of(self, node: Node) -> int:
        """Returns the residue of a term modulo `PRIME`. Raises Undefined if the term has no value."""
        kind, args = node
        if kind == "num":
            return args[0].numerator * pow(args[0].denominator, -1, PRIME) % PRIME
        if kind == "sym":
            return self.atom("sym", args[0])
        if kind == "const":
            if args[0] == "i":
                return _I
            self.pure = False
            return self.atom(*args)
        if kind == "add":
            return sum(self.of(term) for term in args) % PRIME
        if kind == "mul":
            product = 1
            for term in args:
                product = product * self.of(term) % PRIME
            return product
        if kind == "pow":
            return self.power(*args)
        if kind == "fn":
            return self.function(args[0], args[1:])
        if kind == "apply":
            value = exact(node) if args[0] == "bmod" else None
            if value is not None:
                return value.numerator * pow(value.denominator, -1, PRIME) % PRIME
            return self.atom(args[0], *(self.of(arg) for arg in args[1:]))
        raise Undefined

    def atom(self, *key: object) -> int:
        """Returns a pseudo-random residue that depends only on the key and the seed."""
        digest = hashlib.blake2b(repr((self.seed, key)).encode(), digest_size=24).digest()
        return int.from_bytes(digest) % PRIME

    def power(self, base: Node, exponent: Node) -> int:
        e = exact(exponent)
        if e is None:
            self.pure = False
            return self.atom("pow", self.of(base), self.of(exponent))
        b = self.of(base)
        if e.denominator != 1:
            root = None
            try:
                value = exact(base)
                root = None if value is None else _root(value, e.denominator)
            except OverBudget:
                pass
            if root is None:
                self.pure = False
                b = self.atom("root", b, e.denominator)
            else:
                b = root.numerator * pow(root.denominator, -1, PRIME) % PRIME
        if not b and e <= 0:
            raise Undefined
        return pow(b, e.numerator, PRIME)

    def function(self, name: str, args: tuple) -> int:
        if name == "percent":
            return self.of(args[0]) * pow(100, -1, PRIME) % PRIME
        value = exact(Node("fn", (name, *args)))
        if value is not None:
            return value.numerator * pow(value.denominator, -1, PRIME) % PRIME
        self.pure = False
        if name == "deg":
            return self.of(args[0]) * self.atom("pi") * pow(180, -1, PRIME) % PRIME
        return self.atom(name, *(self.of(arg) for arg in args))
