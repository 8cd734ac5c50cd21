"""Language consistency."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards.language import consistency, languages, verify

CASES = Path(__file__).parents[1] / "cases" / "format" / "language.jsonl"
ROWS = [json.loads(line) for line in CASES.open(encoding="utf-8")]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_language_case_lies_in_its_range(row):
    assert row["min"] <= verify(row["cot"], row).reward <= row["max"]


SENTENCES = {
    "en": "First we add two and three. Wait, that is wrong; let us check the sum again.",
    "zh": "首先我们把二和三相加。等等，这不对，再检查一遍。",
    "fr": "D'abord nous ajoutons deux et trois, donc la réponse est cinq.",
    "de": "Zuerst addieren wir zwei und drei, also ist die Antwort fünf.",
    "es": "Primero sumamos dos y tres, entonces la respuesta es cinco.",
    "it": "Prima sommo due e tre, quindi la risposta è cinque.",
    "pt": "Primeiro somamos dois e três, então a resposta é cinco.",
    "nl": "Eerst tellen we twee en drie op, dus het antwoord is vijf.",
    "ja": "まず二と三を足します。だから答えは五です。",
    "ko": "먼저 둘과 셋을 더합니다. 그래서 답은 다섯입니다.",
    "ru": "Сначала сложим два и три, значит ответ пять.",
    "ar": "أولا نجمع اثنين وثلاثة ثم نتحقق.",
    "el": "Πρώτα προσθέτουμε δύο και τρία.",
    "th": "ก่อนอื่นเราบวกสองกับสาม",
    "hi": "पहले हम दो और तीन जोड़ते हैं",
}


@pytest.mark.parametrize("target", SENTENCES)
@pytest.mark.parametrize("written", SENTENCES)
def test_a_text_in_one_language_is_all_of_it_and_nothing_of_another(written, target):
    assert consistency(SENTENCES[written], target) == float(written == target)


# English words and Chinese characters, counted by hand
MIXED = {
    "Let me 首先 think 问题": {"en": 3, "zh": 4},
    "wait 等等 try 3+4=7 again": {"en": 3, "zh": 2},
    "三角形ABC中，AB=3，sin x=1": {"zh": 4},
    "用python写 code": {"en": 2, "zh": 2},
    "so x_1 and y2 equal ab+cd": {"en": 3},
    "the cost is $5 and then $10 more": {"en": 6},
    "**So** the <b>answer</b>": {"en": 3},
    "see https://example.com/the/page now": {"en": 2},
    "so `print(the)` and ```python\nfor the in x\n``` then": {"en": 3},
    r"so \(the x\) and \[the y\] then $$the z$$ is": {"en": 4},
    r"so \begin{align} the x \end{align} is": {"en": 2},
    r"\alpha is \frac{1}{2}": {"en": 1},
    "аdd thе numbers": {"?": 2, "en": 1},
    "ｆｉｒｓｔ ａｄｄ": {"en": 2},
}


@pytest.mark.parametrize("text", MIXED)
def test_words_are_counted_as_the_module_says(text):
    assert dict(languages(text)) == MIXED[text]


def test_words_hidden_in_a_formula_still_count():
    assert languages(r"the $\text{所以答案}$ is $三$") == {"en": 2, "zh": 5}


def test_one_common_word_of_another_language_does_not_change_a_sentence():
    # "die" and "war" are German articles and verbs too, but not in one English sentence with a
    # single one of them
    assert consistency("They die and we check the sum.", "en") == 1.0


def test_two_common_words_of_another_language_count_as_its_own():
    assert languages("The answer donc est cinq") == {"en": 3, "fr": 2}


@pytest.mark.parametrize("text", ["", " \n", "2+3=5", "x", "$x^2$", "```\ncode\n```"])
def test_a_text_without_words_has_no_share_and_pays_nothing(text):
    assert consistency(text, "en") is None
    assert verify(text, {"target": "en"})[:2] == (0.0, "no_answer")


def test_a_target_may_be_a_code_with_a_region_or_a_name():
    assert verify("五", {"language": "zh-CN"}).reward == verify("五", {"target": "Chinese"}).reward == 1.0


def test_a_target_that_is_no_language_is_named():
    with pytest.raises(ValueError, match="klingonisch"):
        consistency("a", "klingonisch")
    assert verify("a", {"target": 3})[:2] == (None, "gold_unusable")


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="ab 的дφ`$\\([{}])<>*_.\n1begin/", max_size=80),
    st.sampled_from(["en", "zh", "ru", "xx"]),
)
def test_no_text_raises_and_every_share_lies_between_0_and_1(text, target):
    share = consistency(text, target)
    assert share is None or 0 <= share <= 1


@pytest.mark.parametrize("piece", ["\\(", "\\[", "$", "$$a", "`", "```a", "\\begin{a}", "<a", "a$ "])
def test_unclosed_marks_are_read_in_one_pass(piece):
    # the marks that hold no word leave the words beside them alone
    assert consistency(piece * 20_000 + "\n the sum", "en") == 1.0
