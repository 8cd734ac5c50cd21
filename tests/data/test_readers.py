"""Readers of problem files."""

import json

import pytest

from r1jax.data.readers import rows
from r1jax.data.rl_forms import boxed

OWN = {"id": "a", "problem": "1+1?", "gold": "2", "kind": "math"}


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


GOLDS = {
    "math": ["2", ["2", "two"]],
    "choice": ["B", "(B)"],
    "countdown": [{"numbers": [1, 2], "target": 3}],
    "code": [{"tests": [["1\n", "2\n"]]}, {"mode": "function", "entry": "f", "tests": [[[1], 2]]}],
    "proof": [{"backend": "coq", "goal": "True"}],
    "general": [None, "anything"],
}


@pytest.mark.parametrize("kind, gold", [(kind, gold) for kind, golds in GOLDS.items() for gold in golds])
def test_a_row_of_every_kind_comes_back_with_its_further_keys(tmp_path, kind, gold):
    row = OWN | {"kind": kind, "gold": gold, "level": 3}
    assert list(rows(written(tmp_path / "a.jsonl", row))) == [row]


# the forms as their authors publish them -> id, gold, kind
FORMS = {
    "GSM8K": (
        {"question": "How many?", "answer": "3*400=<<3*400=1200>>1200\n#### 1,200"},
        ("form-0", "1200", "math"),
    ),
    "GSM8K, answer apart": (
        {"id": "g1", "question": "How many?", "solution": "#### 12", "answer": "12"},
        ("g1", "12", "math"),
    ),
    "MATH": (
        {
            "problem": "Find x.",
            "level": "Level 1",
            "type": "Algebra",
            "solution": r"So $\boxed{\frac{1}{2}}$.",
        },
        ("form-0", r"\frac{1}{2}", "math"),
    ),
    "MATH-500": (
        {"problem": "Find x.", "solution": r"\boxed{3}", "answer": "3", "unique_id": "test/1.json"},
        ("test/1.json", "3", "math"),
    ),
    "AIME": (
        {"ID": "2024-I-1", "Problem": "Find x.", "Solution": "We get 33.", "Answer": 33},
        ("2024-I-1", "33", "math"),
    ),
    "AMC": ({"id": 0, "problem": "Find x.", "answer": 142.0, "url": "u"}, ("0", "142", "math")),
    "AMC with options": (
        {"id": 1, "problem": "Find x. (A) 1 (B) 2", "answer": "B"},
        ("1", "B", "choice"),
    ),
    "OlympiadBench": (
        {"id": 2, "question": "Find x.", "final_answer": ["$2$"], "is_multiple_answer": False},
        ("2", "$2$", "math"),
    ),
    "OlympiadBench, several": (
        {
            "id": 2,
            "question": "Find all x.",
            "final_answer": ["1", "2"],
            "is_multiple_answer": True,
        },
        ("2", "1, 2", "math"),
    ),
    "OlympiadBench, alternatives": (
        {"id": 2, "problem": "Find x.", "answer": ["1/2", "0.5"], "multiple": False},
        ("2", ["1/2", "0.5"], "math"),
    ),
}


@pytest.mark.parametrize("record, expected", FORMS.values(), ids=FORMS)
def test_a_known_form_is_told_by_its_keys(tmp_path, record, expected):
    (row,) = rows(written(tmp_path / "form.jsonl", record))
    assert (row["id"], row["gold"], row["kind"]) == expected
    assert row["problem"] == record.get("problem", record.get("question", record.get("Problem")))


def test_a_json_array_and_lines_give_the_same_rows(tmp_path):
    records = [OWN, OWN | {"id": "b"}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    assert list(rows(tmp_path / "a.json")) == list(rows(written(tmp_path / "a.jsonl", *records))) == records


def test_parquet_gives_the_rows_of_jsonl(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    gold = {"numbers": [1, 2], "target": 3}
    records = [OWN | {"id": str(i)} for i in range(3)] + [
        OWN | {"id": "c", "kind": "countdown", "gold": json.dumps(gold)}
    ]
    parquet.write_table(arrow.Table.from_pylist(records), tmp_path / "a.parquet")
    assert list(rows(tmp_path / "a.parquet")) == [*records[:3], records[3] | {"gold": gold}]
    parquet.write_table(arrow.Table.from_pylist([OWN, OWN | {"id": "b", "gold": " "}]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet:2 \(id 'b'\) has gold=' '"):
        list(rows(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(ValueError, match=r"c\.parquet is not a readable parquet file"):
        list(rows(tmp_path / "c.parquet"))


BAD = {
    "no kind": ({"id": "a", "problem": "?", "gold": "2"}, r"id 'a'.* has no kind"),
    "no id": ({"problem": "?", "gold": "2", "kind": "math"}, "has no id"),
    "blank id": (OWN | {"id": " "}, "has id=' '"),
    "unknown kind": (OWN | {"kind": "maths"}, r"id 'a'.*kind='maths'; use one of math, choice"),
    "blank problem": (OWN | {"problem": " "}, r"id 'a'.*problem=' '"),
    "blank gold": (OWN | {"gold": ""}, r"id 'a'.*gold=''; the gold of kind math is a string"),
    "empty list of golds": (OWN | {"gold": []}, "gold=\\[\\]"),
    "two letters": (OWN | {"kind": "choice", "gold": "AB"}, "one option letter"),
    "countdown without target": (
        OWN | {"kind": "countdown", "gold": {"numbers": [1]}},
        '"target": n',
    ),
    "countdown with words": (
        OWN | {"kind": "countdown", "gold": {"numbers": ["x"], "target": 1}},
        '"numbers"',
    ),
    "code without tests": (OWN | {"kind": "code", "gold": {"tests": []}}, "at least one test"),
    "proof without goal": (OWN | {"kind": "proof", "gold": {"backend": "coq"}}, '"goal"'),
    "strange keys": ({"prompt": "?", "label": "2"}, r"has the keys prompt, label; a row needs"),
    "solution without a box": (
        {"problem": "?", "solution": "so it is"},
        "has the keys problem, solution",
    ),
    "no object": ([1, 2], "is not an object"),
}


@pytest.mark.parametrize("record, message", BAD.values(), ids=BAD)
def test_a_bad_row_is_named_with_file_line_and_rule(tmp_path, record, message):
    path = written(tmp_path / "a.jsonl", OWN | {"id": "first"}, record)
    with pytest.raises(ValueError, match=r"a\.jsonl:2 .*" + message):
        list(rows(path))


def test_what_is_no_json_is_named_with_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(OWN).encode() + b"\n\n{'id': 1}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:3 is not JSON"):
        list(rows(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1 is not JSON in UTF-8"):
        list(rows(tmp_path / "a.jsonl"))
    (tmp_path / "a.json").write_bytes(b"[1,")
    with pytest.raises(ValueError, match=r"a\.json is not a JSON array"):
        list(rows(tmp_path / "a.json"))


def test_an_id_met_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.jsonl:2 \(id 'a'\) repeats the id of line 1"):
        list(rows(written(tmp_path / "a.jsonl", OWN, OWN)))


def test_an_empty_file_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no rows"):
        list(rows(written(tmp_path / "a.jsonl")))
    with pytest.raises(ValueError, match=r"a\.csv ends in '\.csv'"):
        list(rows(written(tmp_path / "a.csv", OWN)))
    with pytest.raises(FileNotFoundError):
        list(rows(tmp_path / "b.jsonl"))


BOXES = {
    r"a \boxed{1} b \boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\fbox{3}": "3",
    r"\boxed 7$.": "7",
    r"\boxed{\{1\}}": r"\{1\}",
    r"\boxed{1": None,
    "none": None,
}


@pytest.mark.parametrize("text", BOXES)
def test_the_last_box_of_a_solution_has_balanced_braces(text):
    assert boxed(text) == BOXES[text]
