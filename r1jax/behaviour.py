"""What a completion does beside answering: `reflective_words`."""

from __future__ import annotations

import re

# Chosen by three human experts and merged: DeepSeek-AI 2025 (v2), appendix C.2.
REFLECTIVE_WORDS = (
    "wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check",
)
# Their Chinese forms, ours: the paper counts English words only.
REFLECTIVE_WORDS_ZH = (
    "等等", "错误", "然而", "但是", "重试", "出错", "验证", "不对", "评估", "检查",
)

# Python's \b sees no border between a Chinese character and a Latin letter ("等wait"), so the
# border is spelled out: any word character except a Chinese one makes the word longer.
_LETTER = r"[^\W\u3400-\u9fff]"
_REFLECTIVE = re.compile(
    rf"(?<!{_LETTER})(?:{'|'.join(REFLECTIVE_WORDS)})(?!{_LETTER})|{'|'.join(REFLECTIVE_WORDS_ZH)}",
    re.IGNORECASE,
)


def reflective_words(text: str) -> int:
    """The number of reflective words in a completion, in English and Chinese.

    An English word counts as a whole word in any case; a Chinese one wherever it stands, because
    Chinese writes no spaces. Hits do not overlap: "等等等等" holds two, "出错误" one (出错).

    Source: DeepSeek-AI 2025 (v2), appendix C.2.
    """
    return sum(1 for _ in _REFLECTIVE.finditer(text))
