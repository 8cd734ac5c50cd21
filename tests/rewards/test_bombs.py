"""Texts made to be expensive: none earns anything, and none costs what a quadratic reading of it would.

They take 1.2 s of CPU on an idle machine (docs/results.md; `pytest -s` prints the figure). The bound is ten times
that, because a loaded machine stretches CPU time too.
"""

import time

from r1jax.rewards.math import verify, warm

MOST_S = 12.0
# pieces that a scanner or a parser might walk over again and again, at two sizes
PIECES = (
    "(", "[", "{", "\\{", "|", "$", "\\(", "\\[", "\\boxed{", "\\frac{", "\\sqrt{", "\\text{", "\\text{or }",
    "\\quad ", "\\ ", " ", "\n", "\n\n", "~", "\\\\", "#", "####", "**", "*", "_", "^", "^{", "_{", "!", "'",
    "\\pm", "1,", "1;", "1 or ", "1 and ", "x=", "1<", "1=", "5 ", "5. ", "is 5 ", "so 5 ", "not ",
    "at least ", "the answer is ", "Answer: ", "<answer>", "<think>", "</think>", "\\begin{pmatrix}",
    "\\begin{cases}1&", "\\overline{", "0.1", "12'", "1.234", "1,234", "½", "𝟏", "的", "是5", "不是", "小于",
    "，", "(a) ", "(if ", "(see 1) ", "either \\boxed{1} or ", "\\cup[1,2]",
)  # fmt: skip
SIZES = ((3900, "5"), (60_000, ")"))  # below and above the longest answer that is parsed, and what stands at the end


def test_bombs_are_read_in_bounded_time_and_earn_nothing():
    warm()
    texts = [piece * (size // len(piece)) + tail for piece in PIECES for size, tail in SIZES]
    texts += [
        "\\boxed{" + "9" * 60_000 + "}",
        "\\boxed{" + "x+" * 20_000 + "x}",
        "\\boxed{5^{5^{5^{5^{5^{5}}}}}}",
        "\\boxed{(10^{10})!}",
        "\\boxed{" + "\\sqrt{" * 500 + "2" + "}" * 501,
        "a " * 30_000 + "is not " * 2000 + "\\boxed{5} " + "or " * 2000,
        "5 " + "\\quad" * 10_000,
        "\\boxed{" + " " * 3000 + "(approx 5)}",
        "The answer is " + "(" * 3000 + "5",
        "x = " + "1 + " * 900 + "1",
        "\\boxed{" + ",".join(f"\\sqrt{{{n}}}" for n in range(60)) + "}",
        "\\boxed{" + "\\cup".join(f"[{2 * n},{2 * n + 1}]" for n in range(60)) + "}",
    ]
    assert len(texts) >= 138
    begun = time.process_time()
    paid, slow = [], []
    for text in texts:
        start = time.process_time()
        verdict = verify(text, {"gold": "77"})
        slow.append((time.process_time() - start, text[:40]))
        if verdict.reward:
            paid.append(text[:40])
    assert not paid
    seconds = time.process_time() - begun
    print(f"{len(texts)} texts: {seconds:.2f} s of CPU")
    assert seconds < MOST_S, sorted(slow)[-5:]
