"""One reading for every wrapping: what denies, bounds or changes a number earns nothing wherever it stands."""

import json
import re
from pathlib import Path

import pytest

from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rewards.math import grade_pair, verify
from tests.support.statements import WRAPPINGS, harmless, wrong

CASES = Path(__file__).parents[1] / "cases"
ZERO = (
    "{}",
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$",
    "The answer is {}.",
    "**Answer:** {}",
    "#### {}",
    "答案是{}",
    r"\[\boxed{{{}}}\]",
)
ONE = (
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$",
    r"**\boxed{{{}}}**",
    r"The answer is \boxed{{{}}}.",
    r"\[\boxed{{{}}}\]",
    r"Answer: \boxed{{{}}}",
    r"#### \boxed{{{}}}",
    r"故答案为\boxed{{{}}}。",
)
BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
SHARE = 0.95  # of the harmless statements that must be paid


def rows(name):
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_no_wrong_statement_is_paid(wrapping):
    statements = list(wrong("5"))
    assert len(set(statements)) >= 500
    assert [s for s in statements if verify(wrapping.format(s), {"gold": "5"}).reward] == []


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_harmless_statements_are_paid(wrapping):
    statements = [(number, s) for number in ("5", "42", "3/4", "120") for s in harmless(number)]
    assert len(statements) >= 500
    failed = [s for number, s in statements if verify(wrapping.format(s), {"gold": number}).reward != 1.0]
    assert len(failed) <= (1 - SHARE) * len(statements), failed


@pytest.mark.parametrize("first", range(0, 8))
def test_a_pair_has_one_verdict_in_every_wrapping_and_in_both_styles(first):
    """The training path, `rule.verify`, over the project's own pairs. A denial in one wrapping is a denial in all."""
    pairs = rows("own/math_pairs.jsonl")[first::8]
    texts, examples, expected = [], [], []
    for row in pairs:
        for wrapping in ZERO:
            texts.append(("r1_zero", f"<think>a</think> <answer>{wrapping.format(row['pred'])}</answer>"))
        texts += [("r1", f"<think>a</think> So it is {wrapping.format(row['pred'])}") for wrapping in ONE]
        examples += [{"kind": "math", "gold": row["gold"]}] * 16
        expected += [float(row["expected"])] * 16
    jobs = [rule.accuracy_job(text, ex, style) for (style, text), ex in zip(texts, examples, strict=True)]
    earned = [
        verify(text, example).reward or 0.0 if job else 0.0
        for job in jobs
        for _, text, example in [job or ("", "", {})]
    ]
    wrong_ones = [
        (example["gold"], text, reward)
        for (_, text), example, reward, right in zip(texts, examples, earned, expected, strict=True)
        if reward != right
    ]
    assert wrong_ones == []


def test_the_training_path_and_the_file_grader_agree_on_statements():
    statements = list(wrong("5"))[::9] + list(harmless("5"))[::3]
    texts = [f"<think>a</think> <answer>{s}</answer>" for s in statements]
    boxed = [f"<think>a</think> So \\boxed{{{s}}}." for s in statements]
    example = {"kind": "math", "gold": "5"}
    with Pool(1, item_s=30.0) as pool:
        zero = rule.score(pool, texts, [example] * len(texts), {"accuracy": 1.0})
        one = rule.score(pool, boxed, [example] * len(texts), {"accuracy": 1.0}, "r1")
    graded = [grade_pair("5", text, deadline=60.0).reward for text in statements]
    assert zero.total.tolist() == graded
    assert one.total.tolist() == graded


ROUND2 = {
    "math/public.jsonl": 0.98,
    "math/answers.jsonl": 0.98,
    "math/hacks.jsonl": 0.98,
    "math/texts.jsonl": 0.98,
}


@pytest.mark.parametrize("name", ROUND2)
def test_public_reports_and_invented_answers(name):
    hard = [row for row in rows(f"round2/{name}") if not row.get("soft")]
    failed = []
    for row in hard:
        text = row["pred"] if "pred" in row else "".join(part * times for part, times in row["pred_parts"])
        paid = verify(text, {"gold": row["gold"]}).reward == 1.0
        if paid != row.get("truth", row["expected"]):
            failed.append((row["id"], paid))
    assert not [case for case, paid in failed if paid], failed
    assert len(failed) <= (1 - ROUND2[name]) * len(hard), failed


def test_whole_completions_by_the_training_path():
    cases = rows("round2/rule/paths.jsonl")
    with Pool(1, item_s=30.0) as pool:
        for style in ("r1_zero", "r1"):
            mine = [row for row in cases if row["style"] == style]
            scores = rule.score(pool, [r["completion"] for r in mine], mine, {"accuracy": 1.0}, style)
            assert [total == 1.0 for total in scores.total] == [row["expected"] for row in mine]


def test_chains_of_thought_without_their_boxes():
    """Real model output whose boxes are taken away is running text. No wrong answer is paid."""
    cases = rows("realdata/qwen_math_cot_800.jsonl")
    paid = {row["id"]: verify(BOX.sub(r"\1", row["pred"]), {"gold": row["gold"]}).reward == 1.0 for row in cases}
    assert not [row["id"] for row in cases if paid[row["id"]] and not row["expected"]]
    assert sum(row["expected"] and not paid[row["id"]] for row in cases) <= 10


TOGETHER = [  # several boxes or blocks that offer a choice, boxes that are denied
    r"Either \boxed{43} or perhaps \boxed{44}.",
    r"\boxed{43}, alternatively \boxed{44}",
    r"\boxed{43} (if zero is not counted) and \boxed{44} (if it is)",
    "Answer 1: \\boxed{43}\nAnswer 2: \\boxed{44}",
    r"If n is even the answer is \boxed{43}. If n is odd the answer is \boxed{44}.",
    r"Perhaps \boxed{43}. Or else \boxed{44}.",
    r"One possibility is \boxed{43}. Another possibility is \boxed{44}.",
    "<answer>43</answer> <answer>44</answer>",
    "<answer>44</answer> <answer>44</answer>",
    r"The answer is not \boxed{44}",
    r"The answer cannot be \boxed{44}.",
    r"\boxed{44} is wrong",
    r"\boxed{44}, which is incorrect.",
    r"The incorrect answer is \boxed{44}.",
    r"I doubt that it is \boxed{44}.",
    r"\boxed{44}. This is wrong.",
    r"\boxed{\cancel{44}}",
    r"at least \boxed{44}",
    r"\boxed{44} or more",
    r"half of \boxed{44}",
    r"答案不是\boxed{44}",
    r"至少\boxed{44}",
]


@pytest.mark.parametrize("text", TOGETHER)
def test_boxes_that_offer_a_choice_or_are_denied_earn_nothing(text):
    assert verify(text, {"gold": "44"}).reward == 0.0


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("2,3", r"The roots are $\boxed{2}$ and $\boxed{3}$."),
        ("44", r"I got \boxed{43}. Wait, that is wrong. The answer is \boxed{44}."),
        ("44", r"\boxed{44}. The case n = 0 is not possible."),
        ("44", r"The number of subsets that are not empty is \boxed{44}."),
        ("44", r"x is not negative, so it is \boxed{44}."),
        ("44", r"The number of wrong answers is \boxed{44}."),
        ("44", r"The minimum is \boxed{44}."),
        ("44", r"The area is \boxed{44} square feet."),
    ],
)
def test_boxes_of_one_answer_are_paid(gold, text):
    assert verify(text, {"gold": gold}).reward == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("42", "m+n=42"), ("1/2", r"P(X=1)=\frac12"), (r"\frac34", r"\tan\alpha=\frac34"), ("42", r"\mathbb{E}[X]=42")],
)
def test_a_named_expression_is_its_value_but_the_value_is_not_the_equation(gold, answer):
    assert verify(f"\\boxed{{{answer}}}", {"gold": gold}).reward == 1.0
    assert verify(f"\\boxed{{{gold}}}", {"gold": answer}).reward == 0.0
