"""IFEval's instructions: for each one a reply that follows it and one that does not, derived by hand from the paper."""

import pytest

from r1jax.rewards.instructions import CHECKS, verify

CASES = [  # name, kwargs, followed, not followed
    ("keywords:existence", {"keywords": ["cat", "C++"]}, "My Cat writes c++.", "My cat writes C."),
    ("keywords:frequency", {"keyword": "a b", "frequency": 2, "relation": "at least"}, "a b, A B", "a b, ab"),
    ("keywords:frequency", {"keyword": "no", "frequency": 1, "relation": "less than"}, "yes", "no"),
    ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, "A train leaves.", "Rain falls."),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, "Q and q", "q"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist die Antwort und sie ist nicht lang.",
        "This is the answer and it is short.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Mr. Fox runs. He stops.",
        "Mr. Fox runs.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "these are three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First.\n\n'Then, more.",
        "First.\n\nAnd then.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], at [place]", "Dear [name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\n\nP. S. More.", "Bye. More."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S. More.", "Bye.\nP.S. More."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n** b\n- c\n- d"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a b* and **c**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 a Section 2 b",
        "Section 1 a",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', '{"a": 1'),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>\ntext"),
    ("combination:two_responses", {}, "One.\n******\nTwo.", "One.\n******\nOne."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    ("startend:end_checker", {"end_phrase": "The end."}, "So.\nthe END.", "The end. No."),
    ("startend:quotation", {}, '"Well."', '"Well.'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NO, I go",
        "No, I go",
    ),
    ("change_case:english_capital", {}, "THIS IS IN CAPITALS.", "THIS IS not."),
    ("change_case:english_lowercase", {}, "this is all small.", "This is not."),
    ("punctuation:no_comma", {}, "One and two.", "One, two."),
]


def example(name, kwargs):
    return {"instructions": [name], "kwargs": [kwargs]}


def test_all_25_instructions_have_cases():
    assert {name for name, *_ in CASES} == set(CHECKS) and len(CHECKS) == 25


@pytest.mark.parametrize(("name", "kwargs", "followed", "broken"), CASES, ids=[case[0] for case in CASES])
def test_a_reply_follows_an_instruction_or_not(name, kwargs, followed, broken):
    assert verify(followed, example(name, kwargs)).reward == 1.0
    verdict = verify(broken, example(name, kwargs))
    assert (verdict.reward, verdict.stage) == (0.0, name)


def test_the_thought_is_not_the_reply_and_all_instructions_count():
    both = {"instructions": ["punctuation:no_comma", "detectable_format:title"], "kwargs": [{}, {}]}
    assert verify("<think>one, two</think> <answer><<T>> yes</answer>", both).reward == 1.0
    assert verify("<think>hm</think> <<T>> one, two", both).reward == 0.0
    assert verify("<think>hm</think> <<T>> one, two", both | {"score": "fraction"}).reward == 0.5
    assert verify("<think>hm</think>  ", both).verdict == "no_answer"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"instructions": ["no:such"], "kwargs": [{}]}, "no:such"),
        ({"instructions": ["startend:end_checker"], "kwargs": [{}]}, "end_phrase"),
        ({"instructions": ["punctuation:no_comma"], "kwargs": []}, "same length"),
        ({}, "same length"),
    ],
)
def test_instructions_that_cannot_be_checked_have_no_verdict(bad, said):
    verdict = verify("text", bad)
    assert verdict.reward is None and verdict.verdict == "gold_unusable" and said in verdict.stage
