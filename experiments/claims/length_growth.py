"""Claim: GRPO makes wrong answers longer than Dr. GRPO does, at the same accuracy. Part of length growth is a bias.

Run:     python -m experiments.claims.length_growth
Method:  trains R1-Zero's recipe twice from the same base on the same questions: with GRPO and with Dr. GRPO. GRPO
         divides a completion's loss by its length, so a long wrong answer is punished less for each of its tokens. Dr.
         GRPO divides by a constant, and does not divide advantages by their standard deviation. The lengths of held-out
         completions after the last step are compared
Expect:  wrong answers are longer under GRPO: the 95 % interval of the difference in length, over seeds, lies above 0.
         The table also has the accuracies
Cost:    two runs of R1-Zero a seed, about 20 minutes a seed on 2 cores (estimated)
Source:  Liu et al. 2025 (arXiv 2503.20783), section 3, Fig. 5; Nature 2025, Fig. 1 (length grows in training)
"""

from __future__ import annotations

from experiments.claims.protocol import Bench, Finding, decide, estimate, main
from experiments.claims.runs import mean_curve, read_evaluations, train_zero
from r1jax.report.claim_pictures import Curves

LOSSES = {"GRPO": (), "Dr. GRPO": ("--loss=dr_grpo",)}
FIGURES = {"accuracy": 3, "length": 1, "length_right": 1, "length_wrong": 1}  # with the digits shown
LIMIT = (
    "Nano's completions end within 448 tokens and its wrong answers often at the limit, so growth over thousands of "
    "tokens, where the bias was found, is out of reach."
)


def find(bench: Bench) -> Finding:
    """Trains with both losses and each seed, and compares the lengths of wrong answers."""
    places = {loss: [train_zero(bench, seed, *words) for seed in bench.seeds] for loss, words in LOSSES.items()}
    ends = {loss: [read_evaluations(place)[-1] for place in found] for loss, found in places.items()}
    base = read_evaluations(places["GRPO"][0])[0]
    rows = [["", *(name.replace("_", " ") for name in FIGURES)]]
    rows.append(["base", *(f"{base[name]:.{digits}f}" for name, digits in FIGURES.items())])
    for loss, lines in ends.items():
        found = [estimate([line[name] for line in lines]).text(digits) for name, digits in FIGURES.items()]
        rows.append([loss, *found])
    apart = {
        name: estimate([a[name] - b[name] for a, b in zip(*ends.values(), strict=True)])
        for name in ("accuracy", "length_wrong")
    }
    rows.append(["difference", apart["accuracy"].text(3, "+"), "", "", apart["length_wrong"].text(1, "+")])
    longer = apart["length_wrong"]
    return Finding(
        decide(longer.low > 0, seeds=len(bench.seeds)),
        f"After {bench.steps} steps wrong answers are {longer.text(1, '+')} tokens longer under GRPO than under Dr. "
        f"GRPO; the accuracies differ by {apart['accuracy'].text(3, '+')}.",
        LIMIT,
        rows,
        [
            Curves(title, unit, {loss: mean_curve(found, name) for loss, found in places.items()}, share=share)
            for title, unit, name, share in (
                ("Wrong answers, held out", "tokens", "length_wrong", False),
                ("Right answers, held out", "tokens", "length_right", False),
                ("Accuracy, held out", "share right", "accuracy", True),
            )
        ],
    )


if __name__ == "__main__":
    main(Bench, find, __doc__)
