"""Checks Metamath proofs: reads a database and verifies proofs. A candidate (the model's proof) may prove theorems but
not declare axioms.

The checker runs no code of a candidate, so it needs no sandbox. It stops if verifying a proof would read or write more
than `MAX_SYMBOLS` symbols. Source: Megill and Wheeler, Metamath: A Computer Language for Mathematical Proofs, 2019,
chapter 4 and appendix B (compressed proofs).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from itertools import combinations

from r1jax.rewards.proofs._metamath import (
    MAX_SYMBOLS,
    Assertion,
    Expression,
    Scope,
    TooCostly,
    Wrong,
    apply_substitution,
    check_apart,
    labels_in,
    steps,
    tokens_of,
    until,
)

LABEL = re.compile(r"[A-Za-z0-9._-]+")


class Database:
    """All declarations that have been read so far, and the scopes (`${` without `$}`) that are open.

    Attributes:
        labels: label -> the assertion, or ("$f" or "$e", expression) for a hypothesis.
        seen_variables: all variables ever declared, also in scopes that are closed.
        scopes: the open scopes, the outermost first.
    """

    def __init__(self):
        self.constants: set[str] = set()
        self.seen_variables: set[str] = set()
        self.labels: dict[str, tuple[str, Expression] | Assertion] = {}
        self.scopes = [Scope()]

    def copy(self) -> Database:
        """Returns a copy; reading more text into the copy leaves this database unchanged."""
        other = Database()
        other.constants, other.seen_variables = self.constants, set(self.seen_variables)
        other.labels = dict(self.labels)
        other.scopes = []
        for scope in self.scopes:
            new = Scope()
            new.variables, new.floating = set(scope.variables), dict(scope.floating)
            new.hypotheses, new.apart = list(scope.hypotheses), set(scope.apart)
            other.scopes.append(new)
        return other

    def read(self, text: str, *, postulate: bool = True, verify: bool = True) -> list[str]:
        """Adds the statements of a text to the database and returns the labels of the theorems in the text.

        Args:
            postulate: whether the text may declare constants and axioms.
            verify: whether to verify the proofs of theorems. If False, only records which labels each proof names.
        Raises:
            Wrong: the text breaks a rule of Metamath.
            TooCostly: verifying a proof would read or write more than MAX_SYMBOLS symbols.
        """
        tokens, theorems, label = tokens_of(text), [], None
        depth = len(self.scopes)
        for token in tokens:
            if not token.startswith("$"):
                if label is not None:
                    raise Wrong(f"two labels stand in a row: {label:.60} {token:.60}")
                if not LABEL.fullmatch(token):
                    raise Wrong(f"{token[:60]!r} is not a label: labels have letters, digits, - _ and . only")
                if token in self.labels or token in self.constants or token in self.seen_variables:
                    raise Wrong(f"the label {token:.60} is already the name of something else")
                label = token
                continue
            if (token in ("$f", "$e", "$a", "$p")) != (label is not None):
                raise Wrong(f"{token:.10} " + ("needs a label" if label is None else "takes no label"))
            if token == "${":
                self.scopes.append(Scope())
            elif token == "$}":
                if len(self.scopes) <= depth:
                    raise Wrong("a $} has no ${ before it")
                self.scopes.pop()
            elif token in ("$c", "$a") and not postulate:
                raise Wrong(f"{token} in a proof: a proof may not declare constants or axioms")
            elif token == "$c":
                self._constants(until(tokens, "$."))
            elif token == "$v":
                self._variables(until(tokens, "$."))
            elif token == "$d":
                names = until(tokens, "$.")
                if len(set(names)) != len(names) or not set(names) <= self._active():
                    raise Wrong(f"$d {' '.join(names):.80}: $d needs distinct variables that are in scope")
                self.scopes[-1].apart |= {tuple(sorted(pair)) for pair in combinations(names, 2)}
            elif token in ("$f", "$e"):
                self._hypothesis(token, label, until(tokens, "$."))
            elif token == "$a":
                self.labels[label] = self.frame(until(tokens, "$."), frozenset(), axiom=True)
            elif token == "$p":
                statement, proof = until(tokens, "$="), until(tokens, "$.")
                assertion = self.frame(statement, frozenset(labels_in(proof)), axiom=False)
                if verify:
                    self._verify(assertion, proof)
                self.labels[label] = assertion
                theorems.append(label)
            else:
                raise Wrong(f"{token[:20]!r} is not a keyword that may stand here")
            label = None
        if label is not None:
            raise Wrong(f"the text ends after the label {label:.60}, without a statement")
        if not postulate and len(self.scopes) != depth:
            raise Wrong("a ${ is never closed by $}")
        return theorems

    def frame(self, statement: Iterable[str], uses: frozenset[str], *, axiom: bool) -> Assertion:
        """Returns a statement as an assertion, with the hypotheses and $d conditions that the open scopes add to it.

        Args:
            statement: the symbols of the statement.
            uses: the labels that its proof names.
            axiom: True for an axiom, False for a theorem.
        Raises:
            Wrong: the statement does not begin with a constant, or has an unknown symbol.
        """
        statement = self._expression(statement)
        hypotheses = [label for scope in self.scopes for label in scope.hypotheses]
        essential = [label for label in hypotheses if self.labels[label][0] == "$e"]
        active = self._active()
        mandatory = {s for s in statement if s in active}
        for label in essential:
            mandatory |= {s for s in self.labels[label][1] if s in active}
        entries = [(label, *self.labels[label]) for label in hypotheses]
        order = tuple(label for label, kind, what in entries if kind == "$e" or what[1] in mandatory)
        return Assertion(
            frozenset(pair for scope in self.scopes for pair in scope.apart if mandatory.issuperset(pair)),
            tuple(self.labels[label][1] for label in order if self.labels[label][0] == "$f"),
            tuple(self.labels[label][1] for label in essential),
            order,
            statement,
            uses,
            axiom,
        )

    def axioms(self, label: str, typecode: str) -> set[str]:
        """Returns the labels of the axioms that the theorem `label` depends on, directly or through other theorems.

        Args:
            typecode: a constant, such as |-. Only axioms whose statement begins with it are returned.
        """
        found, open_, seen = set(), [label], {label}
        while open_:
            here = self.labels.get(open_.pop())
            if isinstance(here, Assertion):
                new = {use for use in here.uses if use not in seen}
                seen |= new
                open_ += new
        for name in seen:
            entry = self.labels.get(name)
            if isinstance(entry, Assertion) and entry.axiom and entry.statement[0] == typecode:
                found.add(name)
        return found

    def _active(self) -> set[str]:
        return set().union(*(scope.variables for scope in self.scopes))

    def _constants(self, names: list[str]) -> None:
        if len(self.scopes) > 1:
            raise Wrong("$c stands between ${ and $}; constants must be declared outside of all scopes")
        for name in names:
            if name in self.constants or name in self.seen_variables or name in self.labels or "$" in name:
                raise Wrong(f"$c {name:.60}: the name is already in use or contains a $")
            self.constants.add(name)

    def _variables(self, names: list[str]) -> None:
        active = self._active()
        for name in names:
            if name in self.constants or name in active or name in self.labels or "$" in name:
                raise Wrong(f"$v {name:.60}: the name is already in use or contains a $")
            active.add(name)
            self.scopes[-1].variables.add(name)
            self.seen_variables.add(name)

    def _hypothesis(self, kind: str, label: str, symbols: list[str]) -> None:
        scope = self.scopes[-1]
        if kind == "$f":
            if len(symbols) != 2 or symbols[0] not in self.constants or symbols[1] not in self._active():
                raise Wrong(f"$f {label:.60}: $f needs a constant and a variable that is in scope")
            if any(symbols[1] in other.floating for other in self.scopes):
                raise Wrong(f"$f {label:.60}: {symbols[1]:.60} has a type already")
            scope.floating[symbols[1]] = (label, symbols[0])
            self.labels[label] = ("$f", tuple(symbols))
        else:
            self.labels[label] = ("$e", self._expression(symbols))
        scope.hypotheses.append(label)

    def _expression(self, symbols: Iterable[str]) -> Expression:
        symbols = tuple(symbols)
        if not symbols or symbols[0] not in self.constants:
            raise Wrong(f"{' '.join(symbols)[:80]!r} does not begin with a constant")
        typed = set().union(*(scope.floating for scope in self.scopes))
        for symbol in symbols:
            if symbol not in self.constants and symbol not in typed:
                raise Wrong(f"{symbol[:60]!r} is neither a constant nor a variable with a type in scope")
        return symbols

    def _verify(self, theorem: Assertion, proof: list[str]) -> None:
        """Raises Wrong unless the proof (its tokens) derives exactly the statement of the theorem.

        Raises:
            TooCostly: the proof takes too many symbols.
        """
        apart = set().union(*(scope.apart for scope in self.scopes))
        active, in_scope = self._active(), {label for scope in self.scopes for label in scope.hypotheses}
        stack: list[Expression] = []
        saved: list[Expression] = []
        written = 0
        for step in steps(proof, theorem.order):
            if step is None:
                if not stack:
                    raise Wrong("Z in a compressed proof saves the last result, but there is no result yet")
                saved.append(stack[-1])
                continue
            if isinstance(step, int):
                if step >= len(saved):
                    raise Wrong("a compressed proof refers to a result that it did not save with Z")
                stack.append(saved[step])
                continue
            entry = self.labels.get(step)
            if entry is None:
                raise Wrong(f"step {step:.60} is unknown" if step != "?" else "the proof is unfinished (?)")
            if not isinstance(entry, Assertion):
                if step not in in_scope:
                    raise Wrong(f"hypothesis {step:.60} is not in scope")
                stack.append(entry[1])
                continue
            count = len(entry.order)
            if len(stack) < count:
                raise Wrong(f"step {step:.60} needs {count} hypotheses, but only {len(stack)} results are on the stack")
            given = stack[len(stack) - count :]
            written += sum(map(len, given)) * (1 + len(entry.apart))
            if written > MAX_SYMBOLS:
                raise TooCostly
            hypotheses = [self.labels[label] for label in entry.order]
            result, values, size = apply_substitution(hypotheses, entry.statement, given, step)
            check_apart(entry.apart, values, active, apart, step)
            written += size
            stack[len(stack) - count :] = [result]
        if len(stack) != 1 or stack[0] != theorem.statement:
            raise Wrong("the proof does not end with one result that is the statement to prove")


@functools.lru_cache(maxsize=8)
def database(text: str) -> Database:
    """Reads a database from its text, and caches the result. Does not verify its proofs, because no model wrote them.

    Raises:
        Wrong: the text breaks a rule of Metamath.
    """
    base = Database()
    base.read(text, verify=False)
    return base


def check(text: str) -> int:
    """Verifies all theorems of a database, given as text, and returns the number of theorems.

    Raises:
        Wrong: the text breaks a rule of Metamath. The message names the first rule that is broken.
        TooCostly: verifying a proof would read or write more than MAX_SYMBOLS symbols.
    """
    base = Database()
    count = len(base.read(text))
    if len(base.scopes) > 1:
        raise Wrong("a ${ is never closed by $}")
    return count


def prove(preamble: str, goal: str, proof: str, allowed: frozenset[str]) -> tuple[str, str]:
    """Checks whether `proof` proves `goal` in the scope at the end of `preamble`.

    Args:
        preamble: the database.
        goal: a statement, with or without `label $p` before it and `$.` after it.
        proof: the steps of the proof, in normal or compressed form; or whole statements, namely any lemmas and, after
            them, the theorem with its proof.
        allowed: labels of the axioms that the proof may use. If empty, the proof may use all axioms of the preamble.
    Returns:
        (verdict, reason): the verdict is "correct", "wrong", "budget" or "gold_unusable" (the preamble or the goal is
        malformed).
    """
    try:
        base = database(preamble).copy()
        wanted = base.frame(until(iter([*_after(goal.split(), "$p"), "$."]), "$."), frozenset(), axiom=False)
    except Wrong as problem:
        return "gold_unusable", str(problem)
    whole = proof if "$p" in proof.split() else f"main. $p {' '.join(wanted.statement)} $= {_bare(proof)} $."
    try:
        theorems = base.read(whole, postulate=False)
        if not theorems:
            return "wrong", "no theorem"
        if base.labels[theorems[-1]].says() != wanted.says():
            return "wrong", "the last theorem is not the goal: its statement, hypotheses or $d conditions differ"
    except Wrong as problem:
        return "wrong", str(problem)
    except TooCostly:
        return "budget", f"the proof takes more than {MAX_SYMBOLS} symbols"
    used = base.axioms(theorems[-1], wanted.statement[0])
    if allowed and not used <= allowed:
        return "wrong", f"axioms not allowed: {', '.join(sorted(used - allowed)):.200}"
    return "correct", f"axioms: {', '.join(sorted(used)):.200}"


def _after(tokens: list[str], keyword: str) -> list[str]:
    tokens = tokens[tokens.index(keyword) + 1 :] if keyword in tokens else tokens
    return tokens[:-1] if tokens[-1:] == ["$."] else tokens


def _bare(proof: str) -> str:
    tokens = _after(proof.split(), "$=")
    return " ".join(tokens)
