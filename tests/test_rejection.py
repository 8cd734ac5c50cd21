"""Which records are kept, and why the others are not."""

import pytest

from r1jax.rejection import Filters, filtered, objection

RECORD = {
    "example": "a", "truncated": False, "right": True, "verdict": "correct", "tokens": 9, "language": "en",
    "response": "<think> the sum is three and this is right </think> The answer is 3.",
}  # fmt: skip


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({}, ""),
        ({"truncated": True}, "cut off"),
        ({"right": False, "verdict": "wrong"}, "wrong"),
        ({"right": False, "verdict": "no_answer"}, "no answer"),
        ({"right": False, "verdict": "timeout"}, "no verdict"),
        ({"right": None, "verdict": None}, ""),
        ({"tokens": 11}, "long"),
        ({"response": "<think> " + "again and again " * 20 + "</think> 3"}, "repetition"),
        ({"response": "<think> the sum is three, and it is more than twenty characters </think> 3"}, "long paragraph"),
        ({"response": "<think> is\n```\nit\n```\n </think> 3"}, "code block"),
        ({"response": "<think> 等等,这个不对,让我再想想 </think> 3"}, "mixed language"),
    ],
)
def test_the_first_objection_to_a_record(changed, reason):
    assert objection(RECORD | changed, Filters(longest=10, longest_paragraph=50, code_blocks=False)) == reason


def test_only_so_many_records_of_one_problem_are_kept():
    found = filtered(
        [RECORD | {"reason": ""}, RECORD | {"reason": ""}, RECORD | {"reason": "", "example": "b"}],
        Filters(most_each=1),
    )
    assert [record["reason"] for record in found] == ["", "enough of this problem", ""]


def test_what_was_dropped_before_stays_dropped_and_counts_for_nothing():
    dropped = RECORD | {"reason": "a person says no"}
    found = filtered([dropped, RECORD | {"reason": ""}], Filters(most_each=1))
    assert [(record["keep"], record["reason"]) for record in found] == [(False, "a person says no"), (True, "")]
