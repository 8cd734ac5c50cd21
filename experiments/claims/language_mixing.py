"""Claim: R1-Zero mixes languages, a reward for the question's language cures it, and the cure costs little accuracy.

Run:     python -m experiments.claims.language_mixing
Method:  trains R1-Zero's recipe twice from the same base on the same questions: without and with --language-weight=1.
         The reward is the share of words of the chain of thought that are in the question's language. The claim
         compares this share on held-out problems after the last step
Expect:  the share falls without the reward, and is higher with the reward by more than the half-width of the 95 %
         interval over seeds. The price is the difference of the accuracies, with its interval
Cost:    two runs of R1-Zero a seed, about 20 minutes a seed on 2 cores (estimated)
Source:  DeepSeek-AI 2025, section 2.3.2: "such alignment results in a slight degradation in the model's performance"
"""

from __future__ import annotations

from experiments.claims.protocol import Bench, Finding, decide, estimate, main
from experiments.claims.runs import mean_curve, read_evaluations, train_zero
from r1jax.report.claim_pictures import Curves

ARMS = {"no reward": (), "language reward": ("--language-weight=1",)}
FIGURES = ("language", "accuracy", "format")
LIMIT = (
    "Nano has two languages of few words, and its corpus mixes them in places; the paper's reader has no counterpart "
    "here, so whether a text of one language is easier to read is not measured."
)


def find(bench: Bench) -> Finding:
    """Trains without and with the language reward, and compares language and accuracy."""
    places = {arm: [train_zero(bench, seed, *words) for seed in bench.seeds] for arm, words in ARMS.items()}
    lines = {arm: [read_evaluations(place) for place in found] for arm, found in places.items()}
    bases = [found[0] for found in lines["no reward"]]
    rows = [["", *FIGURES], ["base", *(estimate([base[name] for base in bases]).text() for name in FIGURES)]]
    for arm, runs in lines.items():
        rows.append([arm, *(estimate([found[-1][name] for found in runs]).text() for name in FIGURES)])
    without, with_reward = lines.values()
    fall = estimate([found[-1]["language"] - base["language"] for found, base in zip(without, bases, strict=True)])
    cure, price = (
        estimate([b[-1][name] - a[-1][name] for a, b in zip(without, with_reward, strict=True)])
        for name in ("language", "accuracy")
    )
    return Finding(
        decide(fall.high < 0, cure.low > 0, seeds=len(bench.seeds)),
        f"The share of words in the question's language changes by {fall.text(3, '+')} without the reward; the reward "
        f"lifts it by {cure.text(3, '+')} and changes the accuracy by {price.text(3, '+')}.",
        LIMIT,
        rows,
        [
            Curves(title, "share", {arm: mean_curve(found, name) for arm, found in places.items()}, share=True)
            for title, name in (("Words in the question's language, held out", "language"), ("Accuracy", "accuracy"))
        ],
    )


if __name__ == "__main__":
    main(Bench, find, __doc__)
