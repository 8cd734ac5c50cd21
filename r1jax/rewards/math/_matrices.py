"""Evaluates matrix expressions of bounded size: sums, scalar multiples, products, transposes, determinants."""

from __future__ import annotations

import itertools

from r1jax.rewards.math._ast import Node, mul, negative, sym
from r1jax.rewards.math._scalars import is_term

MOST_FACTORS, MOST_ROWS, MOST_DETERMINANT = 3, 8, 4
Rows = tuple[tuple[Node, ...], ...]


def matrix_value(node: Node) -> Node | None:
    """Evaluates a matrix, or a sum, scalar multiple, product or transpose of matrices, to one matrix node.

    Returns None if the node is none of these, if the shapes do not fit, or if there are too many or too large matrices.
    """
    if node.kind == "matrix":
        return node
    if node.kind == "pow" and node.args[1] == sym("T"):
        inner = matrix_value(node.args[0])
        return inner and Node("matrix", tuple(zip(*inner.args, strict=False)))
    if node.kind == "add":
        parts = [matrix_value(part) for part in node.args]
        if any(part is None or [len(r) for r in part.args] != [len(r) for r in parts[0].args] for part in parts):
            return None
        rows = zip(*(part.args for part in parts), strict=False)
        return Node("matrix", tuple(tuple(Node("add", cells) for cells in zip(*row, strict=False)) for row in rows))
    if node.kind == "mul":
        factors = tuple(part for part in node.args if is_term(part))
        matrices = [matrix_value(part) for part in node.args if not is_term(part)]
        if not matrices or None in matrices or len(matrices) > MOST_FACTORS:
            return None
        product: Rows | None = matrices[0].args
        for matrix in matrices[1:]:
            product = _product(product, matrix.args)
        return product and Node("matrix", tuple(tuple(mul(*factors, cell) for cell in row) for row in product))
    return None


def nested(node: Node) -> Rows | None:
    """Returns the rows of a matrix that is written as a tuple in brackets, such as the text [[1, 2], [3, 4]].

    Returns None if the tuple is no matrix.
    """
    rows = node.args[2:]
    if node.args[:2] != ("[", "]") or any(row.kind != "tuple" or row.args[:2] != ("[", "]") for row in rows):
        return None
    return tuple(row.args[2:] for row in rows) if len({len(row.args) for row in rows}) == 1 else None


def determinant(rows: Rows) -> Node | None:
    """Returns the determinant of a matrix, written out by Leibniz's formula.

    Returns None if the matrix is not square, has more than four rows, or has a cell for which `is_term` is False, such
    as a matrix or a set.
    """
    size = len(rows)
    if size > MOST_DETERMINANT or any(len(row) != size or not all(map(is_term, row)) for row in rows):
        return None
    terms = []
    for order in itertools.permutations(range(size)):
        product = mul(*(rows[i][order[i]] for i in range(size)))
        odd = sum(order[i] > order[j] for i, j in itertools.combinations(range(size), 2)) % 2
        terms.append(negative(product) if odd else product)
    return terms[0] if size == 1 else Node("add", tuple(terms))


def _product(left: Rows | None, right: Rows) -> Rows | None:
    """Returns the matrix product left·right; None if the shapes do not fit or the inner size exceeds MOST_ROWS."""
    if not left or len(right) > MOST_ROWS or any(len(row) != len(right) for row in left):
        return None
    if len({len(row) for row in right}) != 1:
        return None
    columns = list(zip(*right, strict=False))
    return tuple(
        tuple(Node("add", tuple(Node("mul", pair) for pair in zip(row, column, strict=False))) for column in columns)
        for row in left
    )
