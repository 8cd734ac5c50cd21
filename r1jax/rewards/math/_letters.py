"""Normalises the characters and spacing of an answer, because models spell the same answer in many ways.

This is not NFKC, which would turn 3² into 32 and Ⅴ into V.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")
_ROOT_OF_NUMBER = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?)")  # the root of all digits, unlike \sqrt12
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_SQUARE_METERS = re.compile(r"(?<=\d)\s?(m|s)(?=[²³])")
_ALPHABETS = re.compile("[\U0001d400-\U0001d7ff]+")  # bold, italic and other letters of mathematics

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
    ("ℕ", r"\mathbb{N}"), ("ℚ", r"\mathbb{Q}"), ("ℂ", r"\mathbb{C}"), ("π", r"\pi "),
    ("°º˚", r"^\circ "), ("∴", r"\therefore "), ("⇒→⟹", r"\to "),
    ("√", r"\sqrt "), ("∛", r"\sqrt[3] "), ("∜", r"\sqrt[4] "), ("∶", ":"), ("，、", ","), ("；", ";"),
    ("…", r"\ldots "), ("‖", r"\|"), ("∣", "|"), ("⌊", r"\lfloor "), ("⌋", r"\rfloor "), ("⌈", r"\lceil "),
    ("⌉", r"\rceil "), ("⟨〈", r"\langle "), ("⟩〉", r"\rangle "), ("“”„″", '"'), ("‘’′", "'"), ("％", r"\%"),
    ("½", r"\frac{1}{2}"), ("⅓", r"\frac{1}{3}"), ("⅔", r"\frac{2}{3}"), ("¼", r"\frac{1}{4}"),
    ("¾", r"\frac{3}{4}"), ("⅕", r"\frac{1}{5}"), ("⅛", r"\frac{1}{8}"), ("⅙", r"\frac{1}{6}"), ("∠", r"\angle "),
    ("¢", r"\text{ cents}"),
    ("△", r"\triangle "), ("。", ".\n"), ("⊂", r"\subset "), ("∧", r"\text{ and }"), ("∨", r"\text{ or }"),
    ("α", r"\alpha "), ("β", r"\beta "), ("γ", r"\gamma "), ("δ", r"\delta "), ("θ", r"\theta "),
    ("λ", r"\lambda "), ("μ", r"\mu "), ("φϕ", r"\phi "), ("ω", r"\omega "), ("ρ", r"\rho "), ("σ", r"\sigma "),
    ("τ", r"\tau "), ("Δ", r"\Delta "), ("Ω", r"\Omega "), ("ε", r"\epsilon "),
):
    _FOLD |= {ord(c): _one for c in _many}

# fmt: on
_PLAIN = re.compile(r"[\n -~]*")


def fold(text: str) -> str:
    """Returns the text with Unicode mathematics replaced by ASCII LaTeX of the same meaning; keeps other letters."""
    if _PLAIN.fullmatch(text):
        return text
    text = _SQUARE_METERS.sub(r"\\text{ \1}", text)
    text = _RAISED.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = _ROOT_OF_NUMBER.sub(lambda m: f"{_ROOTS[m[1]]}{{{m[2]}}}", text)
    text = _ALPHABETS.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    return text.translate(_FOLD)


# \\\\frac comes from a file that was escaped twice; a line break before a plain word "frac" does not occur
_TWICE_ESCAPED = (
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|left|right|sqrt|leq?|geq?|neq?|pi|cdot|times|text|infty|cup|cap|begin|end|in|log|ln|pm|"
    r"boxed|mathbb|circ)(?![a-zA-Z]))"
)
_DROPPED = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle|"
    r"limits|nolimits|rm|bf|it|hfill|notag|nonumber|strut|mathstrut|middle|tiny|scriptsize|footnotesize|small|"
    r"normalsize|large|Large|LARGE|huge|Huge|scriptstyle|bfseries|itshape)(?![a-zA-Z])"
)
_RENAMED = (
    (re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]"), r"\\\\ "),
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*[.,;]?\s*\}"), ""),
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
    (re.compile(r"\\(?:backslash|smallsetminus)(?![a-zA-Z])"), r"\\setminus "),
    (re.compile(r"\\surd(?![a-zA-Z])"), r"\\sqrt "),
    (re.compile(r"\\(?:dots[a-z]?|cdots)(?![a-zA-Z])|\.\.\.+"), r"\\ldots "),
    (re.compile(r"\\(?:land|wedge)(?![a-zA-Z])"), r"\\text{ and }"),
    (re.compile(r"\\(?:lor|vee)(?![a-zA-Z])"), r"\\text{ or }"),
    (re.compile(r"\\(?:colon)(?![a-zA-Z])"), ":"),
    (re.compile(r"\\(?:degree|textdegree)(?![a-zA-Z])"), r"^\\circ "),
    (re.compile(r"\\h?phantom\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}"), " "),
)
# a brace closed by \right. holds the lines of a system
_SYSTEM = re.compile(
    r"\\left\s*\\(?:\{|lbrace)\s*\\begin\{(array|aligned|matrix|gathered|align\*?)\}(?:\{[lcr| ]*\})?"
    r"(.*?)\\end\{\1\}\s*\\right\s*\.",
    re.DOTALL,
)
_GOES_ON = re.compile(r"(?:\\\\)?\s*&\s*(=|<|>|\\(?:le|ge|ne|approx|equiv|in)(?![a-zA-Z]))|\\\\\s*(?==)")
LONGEST_SYSTEM = 4096
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")  # 7.2 x 10^3
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(\d+(?:\.\d+)?)")
# thousands separators: 28,800 28{,}800 28\,800 12,\!000 1 000
_SURE = r"(?:\{,\}|,\s*\\!\s*|\\[,;:! ]\s*|~|\s(?=\d{3}))"
THOUSANDS = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_SURE}\d{{3}})+(?![\d])")
COMMAS = re.compile(r"(?<![\d.,\w])\d{1,3}(?:,\d{3})+(?!\d)(?!,\d)")
_HALF_DAY = re.compile(r"(?<![A-Za-z])([ap])\.\s?m\.?(?![A-Za-z])")
_SPACING = re.compile(r"\\(?:[,;:!> ]|quad|qquad|thinspace|enspace|,)(?![a-zA-Z])|~|&nbsp;")
_NOT_DIGIT = re.compile(r"[^\d.]+")


def tidy(latex: str) -> str:
    r"""Returns equivalent LaTeX in a plain form.

    Size commands such as \big are removed, synonyms such as \leq and \leqslant become one command, and thousands
    separators such as {,} are removed. Bare commas, as in 28,800, stay: they may separate two numbers.
    """
    text = fold(latex)
    if len(text) <= LONGEST_SPELLED:
        text = _spelled_out(text)
    if "left" in text and len(text) < LONGEST_SYSTEM:
        text = _SYSTEM.sub(r"\\begin{aligned}\2\\end{aligned}", text)
    if "\\" in text or "..." in text:
        text = _DROPPED.sub("", text)
        for pattern, plain in _RENAMED:
            text = pattern.sub(plain, text)
        if "align" in text or "split" in text:  # a line that begins with a relation continues the one before
            text = _GOES_ON.sub(r"\1", text)
    if "sqrt" in text:
        text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    if "x" in text:
        text = _TIMES_TEN.sub(r"\\times ", text)
    if "per cent" in text:
        text = text.replace("per cent", "percent")
    if ".m" in text:
        text = _HALF_DAY.sub(r"\1m", text)
    return THOUSANDS.sub(lambda m: _NOT_DIGIT.sub("", m[0]), text).strip()


_SMALL_DEGREE = re.compile(r"(?<=\d)\s*\^\s*(?:o(?![A-Za-z])|\{\s*(?:\\(?:rm|text|mathrm)\s*)?\{?\s*o\s*\}?\s*\})")
_MINUTES = re.compile(
    r"(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(\d+)\s*(?:'|\^\{?\\prime\}?|\\prime)(?!')\s*(?:(\d+(?:\.\d+)?)\s*(?:''|\"|\^\{?\\prime\\prime\}?))?"
)
_ABOUT = re.compile(
    r"(?:\\[ ,;]|\\q?quad|\s){0,4}\(\s*(?:\\text\s*\{)?\s*"
    r"(?:\\approx|\\sim|approximately|approx\.?|about|roughly|or\s+about)\s*\}?\s*([^()]*?)\)\s*$"
)
_OR_ABOUT = re.compile(r"(?<=[\w})])\s?,?\s{1,3}or\s+(?:about|approximately|roughly)\s+(-?\d+\.\d+)\s*$")
_DOTTED = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])")
_QUOTED = re.compile(r"(?<![\d.,'])\d{1,3}(?:'\d{3})+(?![\d'])")
_INDIAN = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTHS})\b,?(?:\s+(\d{{4}}))?")
_ORDINAL_DAY = re.compile(rf"\b({_MONTHS})\s+(?:the\s+)?(\d{{1,2}})(?:st|nd|rd|th)\b")
_HOURS = re.compile(r"(\d+)\s*(?:h|hr|hrs|hours?)\.?\s*(?:and\s+)?(\d+)\s*(?:m|mins?|minutes?)\.?(?=\s*(?:$|\d))")
_OLD_FONT = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)(?:\s|\\ )+([A-Za-z][^{}\\]*)\}")
_PLAIN_MOD = re.compile(r"(?<![\\A-Za-z(])(?:\\text\s*\{\s*)?mod\s*\}?\s*(\d+)\s*$")
_SHORT_UNIT = re.compile(r"\b(sq|cu)\.\s*(?=[a-z])")
_CASES_IF = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:if|when|for|where)\s*\}|(?<=&)\s*(?:if|when|for)\s(?=\s*[\w\\$-])"
)


def _spelled_out(text: str) -> str:
    """Rewrites degrees with minutes, dates, numbers with dots, hours with minutes, and remarks such as (≈ 1.4)."""
    if "^" in text:
        text = _SMALL_DEGREE.sub(r"^\\circ ", text)
    if "circ" in text:
        text = _MINUTES.sub(lambda m: rf"({m[1]}+\frac{{{m[2]}}}{{60}}+\frac{{{m[3] or 0}}}{{3600}})^\circ ", text)
    if text.endswith(")") and _ABOUT.search(text):
        text = _ABOUT.sub(r" \\approx \1", text)
    if " or " in text:
        text = _OR_ABOUT.sub(r" \\approx \1", text)
    if "." in text:
        text = _DOTTED.sub(lambda m: m[0].replace(".", ""), text)
        text = _SHORT_UNIT.sub(r"\1 ", text)
    if "'" in text:
        text = _QUOTED.sub(lambda m: m[0].replace("'", ""), text)
    if text.count(",") > 1:
        text = _INDIAN.sub(lambda m: m[0].replace(",", ""), text)
    if "h" in text:
        text = _HOURS.sub(r"\1 hours \2 minutes", text)
    if "{\\" in text:
        text = _OLD_FONT.sub(r"\\text{ \1}", text)
    if "equiv" in text:
        text = _PLAIN_MOD.sub(r"\\pmod{\1}", text)
    if "cases" in text:
        text = _CASES_IF.sub(" ", text)
    if " " in text and _MONTH.search(text):
        text = _DAY_FIRST.sub(lambda m: f"{m[2]} {m[1]}" + (f", {m[3]}" if m[3] else ""), text)
        text = _ORDINAL_DAY.sub(r"\1 \2", text)
    return text


_MONTH = re.compile(_MONTHS)
LONGEST_SPELLED = 4096
MOST_BEHIND = 100  # characters at the end of an answer that may be signs such as the end of a proof
MOST_WRAPPERS = 12
_WRAPPERS = (
    *((mark, mark) for mark in ("```", "$$", "$", "***", "**", "*", "__", "_", "`", '"', "'")),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
)

_OPENERS = frozenset(start[0] for start, _ in _WRAPPERS)
_BEFORE = re.compile(
    r"^(?:#{1,6}\s+|(?:\\(?:therefore|because|Rightarrow|implies|to|Longrightarrow|[ ,;:!]|"
    r"q?quad)(?![A-Za-z])\s*)+(?=.))"
)
_BEHIND = re.compile(r"(?:\\(?:blacksquare|square|qed|Box|checkmark|[ ,;:!]|q?quad)(?![A-Za-z])\s*)+$")


def unwrap(text: str) -> str:
    """Strips math delimiters and emphasis (**) that enclose the whole text, and final punctuation."""
    for _ in range(MOST_WRAPPERS):
        before = text
        text = text.strip().rstrip("\\\n")  # a line break, or the rest of "\\ "
        if text[:1] in ("#", "\\"):
            text = _BEFORE.sub("", text)
        if "\\" in text:
            text = text[:-MOST_BEHIND] + _BEHIND.sub("", text[-MOST_BEHIND:])
        for _ in range(MOST_WRAPPERS):
            if not text or text[-1] not in ".,;:!。" or text.endswith((r"\.", r"\!", r"\,", r"\;", r"\:")):
                break
            if text[-1] == "!" and re.match(r"[\w)}]", text.rstrip("!")[-1:]):
                break  # a factorial
            if text.endswith(("...", "\\right.")):
                break  # an ellipsis, or an invisible bracket
            text = text[:-1].rstrip()
        for start, end in _WRAPPERS if text[:1] in _OPENERS else ():
            inner = text[len(start) : -len(end)]
            if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end) and end not in inner:
                text = inner
                break
        if text == before:
            break
    return text


def spelling(tidied: str) -> str:
    """Returns tidied text without spaces, the form in which two answers are compared letter by letter.

    Spaces between two letters or digits stay, so that 1 2/3 does not become 12/3.
    """
    text = _SPACING.sub(" ", tidied)
    text = re.sub(r"(?<=[\w.])\s+(?=[\w.])", "\0", text)
    return re.sub(r"\s+", "", text).replace("\0", " ")
