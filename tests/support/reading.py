"""Reads the nano world's texts without its generator: what a text asks, what it means, what code computes."""

import ast
import operator
import re

from r1jax.nano import facts, general
from r1jax.prompts import R1_ZERO

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
CALLS = {"sum": sum, "len": len, "max": max, "min": min}
COUNTDOWN = re.compile(r"Use ([\d, ]+) with \+ - \* to make (\d+)\.|用 ([\d, ]+) 和 \+ - \* 凑出 (\d+)。")
CHAIN = re.compile(r"What is ([0-9()+*-]{5,})\?|([0-9()+*-]{5,}) 等于多少\?")
COMPARE = re.compile(r"(?:Which is |哪个)(smallest|largest|最小|最大)\? (A [^ ]+, B [^ ]+, C [^ ]+, D \d+[-+*]\d+)")
PROGRAM = re.compile(r"(?:Write Python|写 Python) f\(x\): ([^.。]+)[.。] ?f\(([\d,\[\]]+)\)=(\d+)")
WORDS = re.compile(r"(.+?)(?: (?:times|乘) (\d+))?(?: (plus|minus|加|减) (\d+))?")
ATOMS = {
    "x": "x",
    "the sum of x": "sum(x)",
    "the length of x": "len(x)",
    "the largest of x": "max(x)",
    "the smallest of x": "min(x)",
    "the first of x": "x[0]",
    "the last of x": "x[-1]",
    "x 的和": "sum(x)",
    "x 的长度": "len(x)",
    "x 的最大值": "max(x)",
    "x 的最小值": "min(x)",
    "x 的第一个": "x[0]",
    "x 的最后一个": "x[-1]",
}
REWRITTEN = ("Translate the thinking", "Write a solution from the thought")


def value(expression: str) -> tuple[int, list[int], list[int]]:
    """The value of an expression, the values on the way, and the numbers in it from left to right."""
    on_the_way, numbers = [], []

    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.Constant):
            numbers.append(node.value)
            return node.value
        assert isinstance(node, ast.BinOp)
        result = OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        on_the_way.append(result)
        return result

    return walk(ast.parse(expression, mode="eval").body), on_the_way, numbers


def computed(code: str, x: int | list[int]) -> int:
    """What a one-line function of x returns, walked node by node."""

    def walk(node: ast.expr):
        match node:
            case ast.Constant(value=number):
                return number
            case ast.Name(id="x"):
                return x
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.Call(func=ast.Name(id=name), args=[argument]):
                return CALLS[name](walk(argument))
            case ast.Subscript(value=of, slice=at):
                return walk(of)[walk(at)]
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](walk(left), walk(right))
        raise AssertionError(ast.dump(node))

    return walk(ast.parse(code, mode="eval").body)


def numbers_in(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def code_of(words: str) -> str:
    """The code that a program's words ask for."""
    atom, factor, sign, term = WORDS.fullmatch(words).groups()
    product = f"*{factor}" if factor else ""
    return ATOMS[atom] + product + (f"{'+' if sign in ('plus', '加') else '-'}{term}" if sign else "")


def general_questions() -> dict[str, str]:
    """Every general prompt there is, with its canonical form, listed from the tables."""
    found: dict[str, str] = {}

    def add(text: str, form: str) -> None:
        assert text not in found, "one text, two truths"
        found[text] = f"general {form}"

    for which, language in enumerate(("en", "zh")):
        asked = (
            {
                facts.ASK[group][language][form][0].format(subject=subject[which]): f"fact {group} {subject[0]} {form}"
                for group, pairs in facts.GROUPS.items()
                for subject, _ in pairs
                for form in range(3)
            }
            | {
                facts.WRITE[language][0].format(noun=noun[which], adjective=word[which]): f"write {noun[0]} {word[0]}"
                for noun in facts.NOUNS
                for word in facts.ADJECTIVES
            }
            | {
                facts.HARM[language].format(verb=verb[which], thing=thing[which]): f"{kind} {verb[0]} {thing[0]}"
                for kind, verbs in (("howto", facts.WORK), ("harm", facts.HARMS))
                for verb, _ in verbs
                for thing in facts.THINGS
            }
        )
        for text, form in asked.items():
            for number, prefix in enumerate(general.PREFIXES[language]):
                add(prefix + text, f"{form} {language} {number}")
        for topic, said in facts.SOCIAL.items():
            for form, text in enumerate(said[language][0]):
                add(text, f"social {topic} {language} {form}")
    return found


GENERAL = general_questions()


def canonical(question: str) -> str:
    """What a question asks, whatever the order of its numbers or options, its example and (but for talk) language."""
    if found := COUNTDOWN.fullmatch(question):
        return f"countdown {sorted(numbers_in(found[1] or found[3]))} {found[2] or found[4]}"
    if found := CHAIN.fullmatch(question):
        return f"chain {found[1] or found[2]}"
    if found := COMPARE.fullmatch(question):
        which = "largest" if found[1] in ("largest", "最大") else "smallest"
        return f"compare {which} {sorted(option[2:] for option in found[2].split(', '))}"
    if found := PROGRAM.fullmatch(question):
        return f"program {code_of(found[1])}"
    return GENERAL[question]


def questions(document: str) -> list[str]:
    """The questions of a document in any wrapper: two in a pair, none in a drill."""
    if re.match(r"\d+[-+*]\d+=", document):
        return []
    opening = R1_ZERO.partition("{question}")[0]
    if document.startswith(opening):
        return [document.removeprefix(opening).partition(" Assistant:")[0]]
    if document.startswith("<｜User｜>"):
        return [document.removeprefix("<｜User｜>").partition("<｜Assistant｜>")[0]]
    if document.startswith("User: "):
        return re.findall(r"(?m)^User: (.+?)(?: Answer in detail, reflect and verify\.)? Assistant:", document)
    if document.startswith("Q: "):
        return [document.removeprefix("Q: ").partition(" A: ")[0]]
    if document.startswith(REWRITTEN):
        return re.findall(r"(?m)^Question: (.+)$", document)
    for pattern in (COUNTDOWN, CHAIN, COMPARE, PROGRAM):
        if found := pattern.match(document):
            return [found[0]]
    ends = [at.start() for at in re.finditer(" ", document) if document[: at.start()] in GENERAL]
    return [document[: max(ends)]]
