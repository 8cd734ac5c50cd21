"""What is kept of sampled records, and the reason given for what is not."""

import json

import pytest

from r1jax.sft_data import records
from r1jax.sft_data.filters import Filters, apply_filters

GOOD = " <think> 3+4=7,7*2=14 so 14 </think> 3+4=7, 7*2=14. The answer is \\boxed{14}."
RECORD = {
    "id": "a/q1/0",
    "example": "q1",
    "domain": "math",
    "kind": "math",
    "language": "en",
    "problem": "What is (3+4)*2?",
    "gold": "14",
    "response": GOOD,
    "raw": GOOD,
    "route": "rejection",
    "source": {"path": "runs/x", "sha256": "ab"},
    "rewritten_by": None,
    "keep": True,
    "reason": "",
    "tokens": 40,
    "truncated": False,
    "verdict": "correct",
    "right": True,
}
STRICT = Filters(
    judged=True, form="r1", longest=100, least_language=1.0, longest_paragraph=60, code_blocks=False, most_each=1
)


def reason(**changed) -> str:
    (found,) = apply_filters([RECORD | changed], STRICT)
    assert found["keep"] == (not found["reason"])
    return found["reason"]


@pytest.mark.parametrize(
    "changed, why",
    [
        pytest.param({}, "", id="a good record"),
        pytest.param({"truncated": True, "right": False}, "cut off", id="cut off comes before wrong"),
        pytest.param({"right": False, "verdict": "wrong"}, "wrong", id="wrong"),
        pytest.param({"right": False, "verdict": "no_answer"}, "no answer", id="no answer"),
        pytest.param({"right": None, "verdict": "timeout"}, "no verdict", id="the verifier gave up"),
        pytest.param({"right": None}, "no verdict", id="nobody can tell"),
        pytest.param({"response": "<think> a </think>"}, "form", id="no summary"),
        pytest.param({"response": "<think> a <think> b </think> 14"}, "form", id="two think tags"),
        pytest.param({"response": ""}, "form", id="nothing"),
        pytest.param({"tokens": 101}, "long", id="one token too many"),
        # 40 words "again": 33 8-grams, of which 1 is new
        pytest.param({"response": f"<think> {'again ' * 40}</think> 14"}, "repetition", id="the same word on and on"),
        pytest.param({"response": "<think> 等等,检查一下 3+4=7 </think> 7"}, "mixed language", id="another language"),
        pytest.param(
            {"response": f"<think> {', '.join(f'{i}+1={i + 1}' for i in range(12))} </think> 12"},
            "long paragraph",
            id="a paragraph of more than 60 characters",
        ),
        pytest.param({"response": "<think> so\n```\nx\n```\n</think> 14"}, "code block", id="a fence in the thought"),
        pytest.param({"response": "<think> so </think> ```python\nx\n```"}, "", id="a fence after the thought"),
        pytest.param({"reason": "by hand", "keep": False}, "by hand", id="dropped before"),
    ],
)
def test_a_record_is_dropped_for_the_first_reason_in_order(changed, why):
    assert reason(**changed) == why


def test_where_a_verdict_is_not_asked_for_only_rows_without_a_verifier_may_lack_one():
    rows = [RECORD | {"right": None, "verdict": verdict} for verdict in (None, "timeout")]
    assert [row["reason"] for row in apply_filters(rows, Filters(distinct=False))] == ["", "no verdict"]


def test_the_same_text_and_too_many_of_one_problem_are_dropped():
    some = [RECORD | {"id": str(i), "response": f"<think> so </think> {text}"} for i, text in enumerate("aabc")]
    found = apply_filters(some, Filters(most_each=2))
    assert [record["reason"] for record in found] == ["", "duplicate", "", "enough of this problem"]
    other = [RECORD | {"example": "q2", "response": "<think> so </think> a"}]
    assert apply_filters([*some, *other], Filters(most_each=2))[-1]["keep"]


def test_filters_that_are_off_let_everything_through():
    off = Filters(
        finished=False,
        right=False,
        form="",
        longest=0,
        most_repeated=1.0,
        least_language=0.0,
        longest_paragraph=0,
        distinct=False,
    )
    hostile = [RECORD | {"response": text, "right": False, "truncated": True} for text in ("", "no " * 999, "</think>")]
    assert all(record["keep"] for record in apply_filters([*hostile, *hostile], off))


def test_a_record_without_the_fields_of_sampling_is_judged_by_its_text_alone():
    bare = {"id": "1", "problem": "p", "response": GOOD, "keep": True, "reason": "", "kind": "math"}
    assert apply_filters([bare], Filters(form="r1"))[0]["keep"]


def test_counts_tell_domains_routes_rewriters_and_reasons():
    some = [
        RECORD | {"id": "1", "rewritten_by": "base"},
        RECORD | {"id": "2", "route": "few_shot", "rewritten_by": "base+annotator"},
        RECORD | {"id": "3", "domain": "code", "keep": False, "reason": "wrong"},
        RECORD | {"id": "4", "keep": False, "reason": "wrong"},
    ]
    assert records.counts(some) == {
        "records": 4,
        "kept": 2,
        "domain": {"math": 2},
        "route": {"few_shot": 1, "rejection": 1},
        "rewritten_by": {"few_shot": {"base+annotator": 1}, "rejection": {"base": 1}},
        "reason": {"wrong": 2},
        "reason_by_domain": {"code": {"wrong": 1}, "math": {"wrong": 1}},
    }
    assert records.sources(some) == {
        "rejection": [{"path": "runs/x", "sha256": "ab"}],
        "few_shot": [{"path": "runs/x", "sha256": "ab"}],
    }


def test_what_a_person_edits_is_what_is_read(tmp_path):
    path = tmp_path / "records.jsonl"
    records.write(path, [RECORD, RECORD | {"id": "b"}])
    lines = path.read_text().splitlines()
    path.write_text(lines[0].replace('"keep": true', '"keep": false') + "\n\n" + lines[1].replace("so 14", "thus 14"))
    found = records.read(path)
    assert [record["keep"] for record in found] == [False, True]
    assert "thus 14" in records.select_kept(found)[0]["response"]


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"id": "a"', "line 2 is not JSON"),
        ("[1, 2]", "line 2 has no text under id, problem, response"),
        ('{"id": "a", "problem": "p", "response": null}', "line 2 has no text under response"),
        ('{"id": "a", "problem": "p", "response": "r", "keep": "yes"}', "line 2 has keep='yes'"),
    ],
)
def test_a_line_that_was_edited_badly_is_named(tmp_path, line, said):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match="--records=") as error:
        records.read(path)
    assert said in str(error.value)


def test_a_file_that_is_not_there_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read.*Give a .jsonl"):
        records.read(tmp_path / "nothing.jsonl")
