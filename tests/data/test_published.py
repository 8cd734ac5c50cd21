"""Published row forms: each is taken for what it is, and trained on."""

import json
from pathlib import Path

import pytest

from r1jax.data import files, questions
from r1jax.data.forms import QUESTIONS, TALKS, find_talk
from r1jax.data.readers import read_columns, rows, rows_with_forms

CASES = Path(__file__).parents[1] / "cases/forms"
# file -> the beginning of the form's name, the kind and gold of its first row, the beginning of its problem
ASKED = {
    "gsm8k": ("GSM8K", "math", "7", "A baker has"),
    "math500": ("MATH", "math", "3", "Find $x$"),
    "math": ("MATH", "math", "3", "Find $x$"),
    "deepscaler": ("MATH", "math", "3", "Find $x$"),
    "openr1_math": ("MATH", "math", "3", "Find $x$"),
    "aime_2024": ("MATH", "math", "33", "Find $N$"),
    "big_math": ("MATH", "math", "3", "Find $x$"),
    "olympiadbench": ("MATH", "math", "$3$", "Find $x$"),
    "verl_gsm8k": ("verl", "math", "7", "A baker has"),
    "dapo_math_17k": ("verl", "math", "7", "Solve the following math problem"),
    "skywork_or1": ("verl", "math", "3", "Find $x$"),
    "eurus_2": ("verl", "math", "3", "When tackling complex reasoning tasks, think first.\n\nFind $x$"),
    "simplerl_zoo": ("verl", "math", "3", "Find $x$"),
    "trl_accuracy": ("TRL", "math", "$3$", "Find $x$"),
    "trl_prompt_text": ("TRL", "math", "7", "A baker has"),
    "tulu_rlvr_gsm": ("Tülu", "math", "7", "Question: A baker has"),
    "tulu_rlvr_ifeval": ("Tülu", "general", {"func_name": "validate_lowercase", "N": 3}, "Write about bees"),
    "orz_math_57k": ("Open-Reasoner-Zero", "math", "3", "Find $x$"),
    "tinyzero_countdown": (
        "TinyZero",
        "countdown",
        {"numbers": [44, 19, 35], "target": 98},
        "Using the numbers [44, 19, 35], create an equation that equals 98.",
    ),
    "humaneval": (
        "HumanEval",
        "code",
        {"entry": "double", "tests": [[[2], 4], [[0], 0]]},
        "Complete this function.\n\ndef double",
    ),
    "mbpp": ("MBPP", "code", {"entry": "f", "tests": [[[2], 4], [[3], 6]]}, "Write a function to double"),
    "mmlu_pro": ("MMLU-Pro", "choice", "C", "Which planet is the largest?\n\nA) Mars\nB) Venus\nC) Jupiter"),
    "mmlu": ("MMLU, ", "choice", "B", "Which is a star?\n\nA) Mars\nB) the Sun"),
    "gpqa": ("GPQA", "choice", None, "Which quark is heaviest?"),
    "ifeval": ("IFEval", "instructions", {"instructions": ["punctuation:no_comma"], "kwargs": [{}]}, "Write a poem"),
}
SAID = {  # file -> the beginning of the form's name, the roles of a row, the last text of the first row
    "messages": ("messages", "ua", "It is 5."),
    "messages_system": ("messages", "suaua", "It is 5."),
    "openthoughts": ("ShareGPT, OpenThoughts", "sua", "<think>\n\nLet me see.\n\n</think>\n\n\n\nIt is 5.\n\n"),
    "sharegpt": ("ShareGPT", "ua", "It is 5."),
    "ultrafeedback": ("UltraFeedback", "ua", "It is 5."),
    "trl_preferences": ("UltraFeedback", "ua", "It is 5."),
    "trl_prompt_completion": ("TRL: prompt, completion", "ua", "It is 5."),
    "alpaca": ("Alpaca", "ua", "It is 5."),
    "dolly": ("Alpaca", "ua", "It is 5."),
    "s1k": ("s1K", "ua", "<think>\nWe think.\n</think>\n\nIt is 5."),
    "openmathinstruct": ("OpenMathInstruct", "ua", "It is 5."),
}


@pytest.mark.parametrize("name", ASKED)
def test_questions_are_taken_for_what_they_are(name):
    form, kind, gold, problem = ASKED[name]
    found = list(rows_with_forms(CASES / f"questions/{name}.jsonl"))
    assert len(found) == 3 and len({row["id"] for _, row in found}) == 3
    assert all(of.startswith(form) for of, _ in found)
    first = json.loads(json.dumps(found[0][1]))
    assert first["kind"] == kind and first["problem"].startswith(problem)
    assert first["gold"] == gold or (gold is None and f"{first['gold']}) top" in first["problem"].splitlines())


@pytest.mark.parametrize("name", SAID)
def test_conversations_are_taken_for_what_they_are(name):
    form, roles, last = SAID[name]
    found = [
        find_talk({key.lower(): value for key, value in record.items()})
        for _, _, record in files.records(CASES / f"talks/{name}.jsonl")
    ]
    assert len(found) == 3 and all(of.form.startswith(form) for of in found)
    assert "".join(message["role"][0] for message in found[0].value) == roles
    assert found[0].value[-1]["content"] == last
    assert "2+3" in next(message["content"] for message in found[0].value if message["role"] == "user")


def test_the_cases_hold_every_form_of_the_tables():
    missing = {name for name in QUESTIONS if not any(name.startswith(form) for form, *_ in ASKED.values())}
    assert {name[:4] for name in missing} == {"APPS", "Live"}  # tests/data/test_forms.py has these
    assert all(any(name.startswith(form) for form, *_ in SAID.values()) for name in TALKS)
    assert {path.stem for path in (CASES / "questions").iterdir()} == ASKED.keys()
    assert {path.stem for path in (CASES / "talks").iterdir()} == SAID.keys()


def test_what_a_file_was_taken_for_is_said_with_its_first_row():
    said = questions.describe(str(CASES / "questions/verl_gsm8k.jsonl"))
    assert said.startswith("taken as verl") and "gold '7'" in said and "A baker has 12 rolls" in said


def test_a_folder_a_saved_data_set_and_parquet_are_read_as_their_rows(tmp_path):
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    wanted = list(rows(CASES / "questions/gsm8k.jsonl"))
    table = pyarrow.Table.from_pylist([{k: row[k] for k in ("question", "answer")} for row in wanted])
    halves = tmp_path / "halves"
    halves.mkdir()
    for i, part in enumerate((table.slice(0, 2), table.slice(2))):
        parquet.write_table(part, halves / f"train-0000{i}-of-00002.parquet")
    parquet.write_table(table.slice(0, 1), halves / "test-00000-of-00001.parquet")
    saved = tmp_path / "saved"
    for split, part in (("train", table), ("test", table.slice(0, 1))):
        (saved / split).mkdir(parents=True)
        (saved / split / "state.json").write_text("{}")
        (saved / split / "dataset_info.json").write_text("{}")
        file = str(saved / split / "data-00000-of-00001.arrow")
        with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, part.schema) as stream:
            stream.write_table(part)
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for path in (f"{halves}:train", f"{saved}:train", saved / "train"):
        found = list(rows(path))
        assert [row["problem"] for row in found] == [row["problem"] for row in wanted], path
        assert len({row["id"] for row in found}) == 3
    assert len(list(rows(f"{halves}:test"))) == len(list(rows(f"{saved}:test"))) == 1
    with pytest.raises(ValueError, match="holds the splits train, test: name one, such as"):
        list(rows(saved))
    with pytest.raises(ValueError, match="of the split valid"):
        list(rows(f"{halves}:valid"))


def test_a_data_set_of_the_hub_is_downloaded_by_split(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    held = ["main/train-00000-of-00001.jsonl", "main/test-00000-of-00001.jsonl", "README.md", "socratic/train-0.jsonl"]
    got = []

    def download(repository, file, repo_type):
        got.append((repository, file, repo_type))
        return str(CASES / "questions/gsm8k.jsonl")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, repo_type: held)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert len(list(rows("openai/gsm8k/main:test"))) == 3
    assert got == [("openai/gsm8k", "main/test-00000-of-00001.jsonl", "dataset")]
    with pytest.raises(ValueError, match="several configurations: name one, such as openai/gsm8k/main:train"):
        list(rows("openai/gsm8k"))
    with pytest.raises(ValueError, match="no file of the split 'dev'"):
        list(rows("openai/gsm8k:dev"))
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"gives no such data set .*Without a network, copy the files to"):
        list(rows("openai/gsm8k"))


def test_columns_name_the_keys_of_a_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"q": "1+1?", "meta": {"a": 2}}) + "\n" + json.dumps({"q": "2+2?", "meta": {"a": 4}}))
    columns = read_columns(["problem=q", "gold=meta.a"])
    first, second = rows(path, columns=columns)
    assert (first["problem"], first["gold"], first["kind"]) == ("1+1?", "2", "math") and second["id"] == "mine-1"
    with pytest.raises(ValueError, match="--column=problem=KEY and --column=gold=KEY"):
        list(rows(path))
    with pytest.raises(ValueError, match="has no question, which --column=problem=question names"):
        list(rows(path, columns=read_columns(["problem=question"])))
    with pytest.raises(
        ValueError, match=r"mine\.jsonl:1, --column=gold=meta: the ground truth has the keys a; no verif"
    ):
        list(rows(path, columns=read_columns(["problem=q", "gold=meta"])))
    with pytest.raises(ValueError, match="--column=q must be HERE=THERE"):
        read_columns(["q"])
