"""Characters and spacing: one plain spelling for what models write in many.

Never NFKC as a whole: it turns 3² into 32 and Ⅴ into V.
"""

from __future__ import annotations

import re

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")
_ROOT_OF_NUMBER = re.compile(r"√\s*(\d+(?:\.\d+)?)")  # all of it, unlike \sqrt12

# fmt: off
_FOLD: dict[int, str | None] = {c: chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)}  # full width
_FOLD |= dict.fromkeys([*range(0x200B, 0x2010), 0x2060, 0xFEFF, 0x00AD, *range(0x202A, 0x202F)], None)
_FOLD |= dict.fromkeys([c for c in range(32) if c not in (9, 10, 13)] + [127], None)
_FOLD |= dict.fromkeys([0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000, 9], " ")
_FOLD |= dict.fromkeys([10, 11, 12, 13, 0x85, 0x2028, 0x2029], "\n")
for _many, _one in (
    ("−–—‐‑‒﹣➖", "-"), ("➕﹢", "+"), ("×✕✖⨯", r"\times "), ("·⋅∙•・", r"\cdot "), ("÷", r"\div "),
    ("∕⁄", "/"), ("∗＊", "*"), ("≤⩽≦", r"\le "), ("≥⩾≧", r"\ge "), ("≠", r"\ne "), ("≈≃≅", r"\approx "),
    ("≡", r"\equiv "), ("±", r"\pm "), ("∓", r"\mp "), ("∞", r"\infty "), ("∪", r"\cup "), ("∩", r"\cap "),
    ("∈", r"\in "), ("∉", r"\notin "), ("∅⌀", r"\emptyset "), ("ℝ", r"\mathbb{R}"), ("ℤ", r"\mathbb{Z}"),
    ("ℕ", r"\mathbb{N}"), ("ℚ", r"\mathbb{Q}"), ("ℂ", r"\mathbb{C}"), ("π", r"\pi "), ("°", r"^\circ "),
    ("√", r"\sqrt "), ("∛", r"\sqrt[3] "), ("∜", r"\sqrt[4] "), ("∶", ":"), ("，、", ","), ("；", ";"),
    ("…", r"\ldots "), ("‖", r"\|"), ("∣", "|"), ("⌊", r"\lfloor "), ("⌋", r"\rfloor "), ("⌈", r"\lceil "),
    ("⌉", r"\rceil "), ("⟨〈", r"\langle "), ("⟩〉", r"\rangle "), ("“”„″", '"'), ("‘’′", "'"), ("％", r"\%"),
    ("½", r"\frac{1}{2}"), ("⅓", r"\frac{1}{3}"), ("⅔", r"\frac{2}{3}"), ("¼", r"\frac{1}{4}"),
    ("¾", r"\frac{3}{4}"), ("⅕", r"\frac{1}{5}"), ("⅛", r"\frac{1}{8}"), ("⅙", r"\frac{1}{6}"), ("∠", r"\angle "),
    ("△", r"\triangle "), ("。", ".\n"), ("⊂", r"\subset "), ("∧", r"\text{ and }"), ("∨", r"\text{ or }"),
    ("α", r"\alpha "), ("β", r"\beta "), ("γ", r"\gamma "), ("δ", r"\delta "), ("θ", r"\theta "),
    ("λ", r"\lambda "), ("μ", r"\mu "), ("φϕ", r"\phi "), ("ω", r"\omega "), ("ρ", r"\rho "), ("σ", r"\sigma "),
    ("τ", r"\tau "), ("Δ", r"\Delta "), ("Ω", r"\Omega "), ("ε", r"\epsilon "), ("→", r"\to "),
):
    _FOLD |= {ord(c): _one for c in _many}

# fmt: on
_PLAIN = re.compile(r"[\n -~]*")


def fold(text: str) -> str:
    """The text in ASCII LaTeX where that says the same; letters of other scripts stay what they are."""
    if _PLAIN.fullmatch(text):
        return text
    text = _RAISED.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = _ROOT_OF_NUMBER.sub(r"\\sqrt{\1}", text)
    return text.translate(_FOLD)


# \\\\frac from a file that was escaped once too often; a line break before a plain word "frac" does not occur
_TWICE_ESCAPED = (
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|left|right|sqrt|leq?|geq?|neq?|pi|cdot|times|text|infty|cup|cap|begin|end|in|log|ln|pm|"
    r"boxed|mathbb|circ)(?![a-zA-Z]))"
)
_DROPPED = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle|"
    r"limits|nolimits|rm|bf|it|hfill|notag|nonumber|strut|middle)(?![a-zA-Z])"
)
_RENAMED = (
    (re.compile(_TWICE_ESCAPED), r"\\"),
    (re.compile(r"\\(?:[dtc]|nice|s)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:leqslant|leqq|leq|le)(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geqq|geq|ge)(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\(?:neq|ne)(?![a-zA-Z])"), r"\\ne "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:lbrace)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![a-zA-Z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![a-zA-Z])"), "]"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:lVert|rVert|Vert)(?![a-zA-Z])"), r"\\|"),
    (re.compile(r"\\(?:varnothing)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\(?:dots[a-z]?|cdots)(?![a-zA-Z])|\.\.\.+"), r"\\ldots "),
    (re.compile(r"\\(?:land|wedge)(?![a-zA-Z])"), r"\\text{ and }"),
    (re.compile(r"\\(?:lor|vee)(?![a-zA-Z])"), r"\\text{ or }"),
    (re.compile(r"\\(?:colon)(?![a-zA-Z])"), ":"),
    (re.compile(r"\\(?:degree|textdegree)(?![a-zA-Z])"), r"^\\circ "),
    (re.compile(r"\\h?phantom\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}"), " "),
)
# a brace that is closed by \right. holds the lines of a system
_SYSTEM = re.compile(
    r"\\left\s*\\(?:\{|lbrace)\s*\\begin\{(array|aligned|matrix|gathered|align\*?)\}(?:\{[lcr| ]*\})?(.*?)\\end\{\1\}\s*"
    r"\\right\s*\.",
    re.DOTALL,
)
_GOES_ON = re.compile(r"(?:\\\\)?\s*&\s*(=|<|>|\\(?:le|ge|ne|approx|equiv|in)(?![a-zA-Z]))|\\\\\s*(?==)")
LONGEST_SYSTEM = 4096
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(\d+(?:\.\d+)?)")
# between digits: 28,800 28{,}800 28\,800 12,\!000 1 000
_SURE = r"(?:\{,\}|,\s*\\!\s*|\\[,;:! ]\s*|~|\s(?=\d{3}))"
THOUSANDS = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_SURE}\d{{3}})+(?![\d])")
COMMAS = re.compile(r"(?<![\d.,\w])\d{1,3}(?:,\d{3})+(?!\d)(?!,\d)")
_HALF_DAY = re.compile(r"(?<![A-Za-z])([ap])\.\s?m\.?(?![A-Za-z])")
_SPACING = re.compile(r"\\(?:[,;:!> ]|quad|qquad|thinspace|enspace|,)(?![a-zA-Z])|~|&nbsp;")
_NOT_DIGIT = re.compile(r"[^\d.]+")


def tidy(latex: str) -> str:
    """The same LaTeX without sizes, synonyms and thousands separators other than the bare comma."""
    text = fold(latex)
    if "left" in text and len(text) < LONGEST_SYSTEM:
        text = _SYSTEM.sub(r"\\begin{aligned}\2\\end{aligned}", text)
    if "\\" in text or "..." in text:
        text = _DROPPED.sub("", text)
        for pattern, plain in _RENAMED:
            text = pattern.sub(plain, text)
        if "align" in text or "split" in text:  # a new line that begins with a relation goes on with the one before
            text = _GOES_ON.sub(r"\1", text)
    if "sqrt" in text:
        text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    if ".m" in text:
        text = _HALF_DAY.sub(r"\1m", text)
    return THOUSANDS.sub(lambda m: _NOT_DIGIT.sub("", m[0]), text).strip()


MOST_WRAPPERS = 12
_WRAPPERS = (("```", "```"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ('"', '"'))


def unwrap(text: str) -> str:
    """Without the math delimiters, emphasis and closing punctuation around the whole."""
    for _ in range(MOST_WRAPPERS):
        before = text
        text = text.strip().rstrip("\\\n")  # a line break, or what is left of "\\ "
        for _ in range(MOST_WRAPPERS):
            if not text or text[-1] not in ".,;:!。" or text.endswith((r"\.", r"\!", r"\,", r"\;", r"\:")):
                break
            if text[-1] == "!" and re.match(r"[\w)}]", text.rstrip("!")[-1:]):
                break  # a factorial
            if text.endswith(("...", "\\right.")):
                break  # an ellipsis, a bracket that is not drawn
            text = text[:-1].rstrip()
        for start, end in _WRAPPERS:
            inner = text[len(start) : -len(end)]
            if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end) and end not in inner:
                text = inner
                break
        if text == before:
            break
    return text


def spelling(tidied: str) -> str:
    """The text for comparison letter by letter: without spaces, but 1 2/3 stays apart from 12/3."""
    text = _SPACING.sub(" ", tidied)
    text = re.sub(r"(?<=[\w.])\s+(?=[\w.])", "\0", text)
    return re.sub(r"\s+", "", text).replace("\0", " ")
