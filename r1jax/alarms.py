"""Start-up mistakes and silent failures that a run should say aloud."""

from __future__ import annotations

from collections.abc import Mapping

PATIENCE = 3  # rounds in a row before a lasting state is worth a word
TRUNCATED, ENTROPY = 0.5, 0.02


class Alarms:
    """Warnings about a run, each said once while its cause lasts.

    Args:
        rewarded: whether it has rewards to learn from.
    """

    def __init__(self, *, rewarded: bool = True) -> None:
        self._lasting: dict[str, int] = {}
        self._rewarded = rewarded

    def check(self, metrics: Mapping[str, float | None]) -> list[str]:
        """The warnings that this round's metrics give rise to."""

        def at_least(key: str, bound: float) -> bool:
            value = metrics.get(key)
            return value is not None and value >= bound

        entropy = metrics.get("entropy")
        conditions = {
            "every completion of a group is the same text in some groups: is the sampling key constant, "
            "or the entropy gone?":
                at_least("group/one_completion", 0.05),
            f"no group's rewards differed for {PATIENCE} rounds: nothing is learned":
                self._rewarded and at_least("group/zero_variance", 1.0),
            f"more than {TRUNCATED:.0%} of the completions are cut off at --max-tokens: raise it, "
            "or check the stop token":
                at_least("completion/truncated", TRUNCATED),
            f"entropy is below {ENTROPY} nats a token: the policy has stopped exploring":
                entropy is not None and entropy < ENTROPY,
            f"all rewards are zero for {PATIENCE} rounds: check the verifier's kind and the template":
                self._rewarded and metrics.get("reward/max") == 0.0,
            "rows without a verdict are left out of training: see verdict in samples.jsonl":
                at_least("rows/invalid", 0.01),
        }  # fmt: skip
        said = []
        for text, true in conditions.items():
            self._lasting[text] = self._lasting.get(text, 0) + 1 if true else 0
            needed = PATIENCE if f"{PATIENCE} rounds" in text else 1
            if self._lasting[text] == needed:
                said.append(text)
        return said
