"""Verifiers: `(text, example) -> Verdict`. Never imports jax."""

from r1jax.rewards.verdict import UNGRADED, VERDICTS, Verdict

__all__ = ["UNGRADED", "VERDICTS", "Verdict"]
