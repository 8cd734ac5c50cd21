"""The verifiers as a library: `help(r1jax.rewards)` holds, wrong use raises, and explain says how a text is read."""

import doctest

import pytest

import r1jax.rewards
from r1jax.rewards import verify, verify_batch
from r1jax.rewards.__main__ import main
from r1jax.rewards.kinds import KINDS


def test_the_help_page_runs_and_names_every_kind():
    result = doctest.testmod(r1jax.rewards)
    assert result.attempted >= 5 and not result.failed
    for name, kind in KINDS.items():
        assert not kind.verifier or f"\n    {name} " in r1jax.rewards.__doc__


def test_a_numeric_gold_is_taken():
    assert verify("math", "42", {"gold": 42}).reward == 1.0
    assert verify("math", "1/2", {"gold": 0.5}).reward == 1.0
    assert [v.reward for v in verify_batch("math", [{"gold": 42, "pred": "42"}, {"gold": 42, "pred": "43"}])] == [
        1.0,
        0.0,
    ]


def test_wrong_use_raises():
    with pytest.raises(TypeError, match=r"verify\(text, example\)"):
        verify("math", {"gold": "1"}, "1")
    with pytest.raises(ValueError, match="use one of math"):
        verify("maths", "1", {"gold": "1"})
    with pytest.raises(ValueError, match=r"rows\[1\] has no 'pred'"):
        verify_batch("math", [{"gold": "1", "pred": "1"}, {"gold": "1", "text": "1"}])
    with pytest.raises(ValueError, match=r"rows\[0\] has gold=None|has no 'gold'"):
        verify_batch("math", [{"gold": None, "pred": "1"}])
    with pytest.raises(ValueError, match="no verifier"):
        verify_batch("general", [])


def test_a_batch_takes_what_the_file_grader_takes():
    rows = [{"numbers": [2, 2], "target": 4, "pred": "2+2"}, {"numbers": [2, 2], "target": 4, "pred": None}]
    assert [v.verdict for v in verify_batch("countdown", rows)] == ["correct", "no_answer"]
    rows = [{"instructions": ["punctuation:no_comma"], "kwargs": [{}], "pred": "a, b"}]
    assert verify_batch("instructions", rows)[0].stage == "punctuation:no_comma"


@pytest.mark.parametrize(
    ("gold", "text", "said"),
    [
        (
            "1/2",
            "The answer is 0.5.",
            ["a statement such as 'the answer is': 0.5", "reward   1.0", "decided by number"],
        ),
        ("5", r"\boxed{at least 5}", ["the last box: at least 5", "deny, bound or change", "reward   0.0"]),
        ("5", r"It is not \boxed{5}", ["words beside it deny it", "no_answer", "reward   0.0"]),
        ("5", "<answer>4</answer><answer>5</answer>", ["there are several"]),
        ("42", r"\boxed{m+n=42}", ["decided by named"]),
        ("5", "So there are 5 apples.", ["or       '5 apples' is quantity(5, apples)", "reward   1.0"]),
    ],
)
def test_explain_says_where_the_answer_stands_and_how_it_is_read(capsys, gold, text, said):
    assert main(["explain", "math", f"--gold={gold}", f"--text={text}"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in said), shown


def test_explain_takes_every_kind_and_refuses_what_it_cannot_read(capsys):
    assert main(["explain", "countdown", '--gold={"numbers": [2, 2], "target": 4}', "--text=2*2"]) == 0
    assert "correct: read as 2*2" in capsys.readouterr().out
    assert main(["explain", "nothing", "--gold=1", "--text=1"]) == 2
    assert "use one of math" in capsys.readouterr().err
    assert main(["explain", "choice", "--gold=none", "--text=1"]) == 2
    assert "one option letter" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["math", "file.jsonl", "--gold=1"])
