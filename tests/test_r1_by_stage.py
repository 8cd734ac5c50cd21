"""The table and the rules of R1's by-stage claim."""

import json

import pytest

from experiments.claims.r1_by_stage import RULES, Cell, Command, average_runs, check, find_broken_rules, pool_tasks

#            base  Zero  Dev1  Dev2  Dev3  R1    Student, Student RL
REASONING = (0.30, 0.75, 0.60, 0.80, 0.79, 0.80, 0.60, 0.50)
LANGUAGE = (0.90, 0.85, 0.99, 0.99, 0.99, 0.99, 0.99, 0.85)
FORMAT = (0.60, 0.98, 0.90, 0.99, 0.95, 0.99, 0.95, 0.98)
CUT = (0.02, 0.02, 0.06, 0.02, 0.02, 0.02, 0.02, 0.02)
HELPFUL = (0.50, 0.10, 0.15, 0.20, 0.50, 0.60, 0.40, 0.10)
NAMES = ("base", "R1-Zero", "Dev1", "Dev2", "Dev3", "R1", "Student", "Student RL")


def cells(values, width=0.01):
    return {n: {"mean": v, "low": v - width, "high": v + width} for n, v in zip(NAMES, values, strict=True)}


def rows(reasoning=REASONING, language=LANGUAGE, form=FORMAT, helpful=HELPFUL, harmless=(1.0,) * 8):
    return [
        *({"figure": "pass@1", "group": task, "values": cells(reasoning)} for task in ("chain", "compare")),
        {"figure": "format", "group": "chain", "values": cells(form)},
        {"figure": "truncated", "group": "chain", "values": cells(CUT)},
        {"figure": "language", "group": "chain", "values": cells(language)},
        {"figure": "helpful", "group": "general", "values": cells(helpful)},
        {"figure": "harmless", "group": "general", "values": cells(harmless)},
    ]


def test_reasoning_is_the_mean_of_its_tasks_and_each_has_a_line_of_its_own():
    both = rows()
    both[1]["values"] = cells([value + 0.1 for value in REASONING], width=0.03)
    table = pool_tasks(both)
    width = 0.0158114  # of (0.30 + 0.40) / 2: the root of 0.01² + 0.03², halved
    assert table["reasoning"]["base"] == pytest.approx(Cell(0.35, 0.35 - width, 0.35 + width))
    assert table["  compare"]["base"].mean == pytest.approx(0.40)


def test_what_general_prompts_share_with_reasoning_is_left_out():
    more = [*rows(), {"figure": "language", "group": "general", "values": cells([0.5] * 8)}]
    assert pool_tasks(more) == pool_tasks(rows())


def test_over_seeds_the_bounds_are_the_outermost():
    first, second = pool_tasks(rows()), pool_tasks(rows(reasoning=[value + 0.2 for value in REASONING]))
    width = 0.01 / 2**0.5
    assert average_runs([first, second])["reasoning"]["base"] == pytest.approx(Cell(0.40, 0.30 - width, 0.50 + width))


def changed(values, name, to):
    return [to if n == name else value for n, value in zip(NAMES, values, strict=True)]


@pytest.mark.parametrize(
    ("figure", "values", "name", "to", "rule"),
    [
        ("reasoning", REASONING, "R1-Zero", 0.49, "R1-Zero's reasoning is 0.20 above its base's"),
        ("language", LANGUAGE, "R1-Zero", 0.90, "R1-Zero mixes languages"),
        ("language", LANGUAGE, "Dev1", 0.96, "the cold start keeps to one language"),
        ("form", FORMAT, "Dev1", 0.65, "the cold start keeps the format unless it is cut off"),
        ("reasoning", REASONING, "Dev1", 0.79, "stage 2 lifts reasoning"),
        ("language", LANGUAGE, "Dev2", 0.97, "stage 2 keeps language consistency near 1"),
        ("helpful", HELPFUL, "Dev2", 0.41, "stage 3 adds general ability"),
        ("reasoning", REASONING, "Dev2", 0.85, "stage 3 keeps reasoning"),
        ("form", FORMAT, "R1", 0.95, "stage 4 improves the format"),
        ("helpful", HELPFUL, "R1", 0.46, "stage 4 keeps helpfulness"),
        ("reasoning", REASONING, "R1", 0.76, "stage 4 keeps reasoning"),
        ("harmless", (1.0,) * 8, "R1", 0.99, "stage 4 keeps harmlessness"),
        ("reasoning", REASONING, "Student RL", 0.60, "the distilled student beats the RL student"),
    ],
)
def test_one_figure_past_its_bound_breaks_its_rule_alone(figure, values, name, to, rule):
    assert find_broken_rules(pool_tasks(rows())) == []
    assert find_broken_rules(pool_tasks(rows(**{figure: changed(values, name, to)}))) == [rule]
    assert rule in RULES


def write(run, seed, table, names=NAMES):
    run.mkdir()
    document = {"seed": seed, "table": table, "stages": [{"name": name} for name in names]}
    (run / "stages.json").write_text(json.dumps(document))
    return str(run)


def test_the_table_is_printed_and_a_broken_rule_named(tmp_path, capsys):
    runs = [write(tmp_path / str(seed), seed, rows()) for seed in range(2)]
    assert check(Command(tuple(runs)))
    assert "| reasoning | 0.300 [0.293, 0.307] |" in capsys.readouterr().out
    worse = write(tmp_path / "worse", 2, rows(helpful=changed(HELPFUL, "R1", 0.40)))
    assert not check(Command((worse,)))
    assert "does not hold: stage 4 keeps helpfulness" in capsys.readouterr().out


def test_runs_that_are_not_three_different_ones_are_refused(tmp_path):
    one = write(tmp_path / "one", 0, rows())
    with pytest.raises(ValueError, match=r"one and .*one both have --seed=0"):
        check(Command((one, one)))
    with pytest.raises(ValueError, match=r"--runs: .*nowhere has no stages.json"):
        check(Command((str(tmp_path / "nowhere"),)))
    short = write(tmp_path / "short", 1, rows(), names=(*NAMES, "Teacher"))
    with pytest.raises(ValueError, match=r"no results for reasoning, .* of Teacher"):
        check(Command((short,)))
    part = write(tmp_path / "part", 2, rows()[:-2])
    with pytest.raises(ValueError, match=r"no results for helpful, harmless of base; .* with all of its --tasks"):
        check(Command((part,)))
    with pytest.raises(
        ValueError, match=r"--runs: .*part measured other tasks than .*one, or another number of problems"
    ):
        check(Command((one, part)))
