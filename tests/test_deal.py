"""Which process has which rows of a round: counted for process numbers that no test machine has."""

import numpy as np
import pytest

from experiments.r1_zero import STAGE
from experiments.stage import plan_rl
from r1jax import cli
from r1jax.planning.processes import deal, describe_deal, place_processes
from r1jax.sampling.cohorts import count_parts, make_cohorts, rows_of_process
from r1jax.sharding import holders_of

PAPER = (512, 16)  # questions of a round, completions of each


@pytest.mark.parametrize(
    "mesh, processes, groups, size",
    [
        ("fsdp:32,expert:32", 128, *PAPER),  # DeepSeek-V3 on 1,024 devices
        ("8x8", 16, *PAPER),  # Qwen2.5-32B: the tensor axis spans two hosts of four
        ("64x4", 64, *PAPER),
        ("256x1", 256, *PAPER),
        ("1024x1", 256, *PAPER),  # more shards than questions: groups are divided
        ("2x3", 3, 5, 4),  # process 1 holds parts of both shards
        ("3x1", 3, 5, 4),
        ("4x1", 4, 7, 4),
        ("1x4", 2, 2, 4),
        ("5x1", 5, 1, 2),  # three processes without a row
    ],
)
def test_every_row_belongs_to_one_process_that_holds_it(mesh, processes, groups, size):
    rows = groups * size
    found = deal(mesh, processes, groups, size)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(rows))
    holders = holders_of(place_processes(mesh, processes))
    (cohort,) = make_cohorts([[0]] * groups, rows, None, 0, len(holders))
    for process, mine in enumerate(found):
        held = [cohort.rows[shard] for shard, holding in enumerate(holders) if process in holding]
        assert np.isin(mine, np.concatenate(held)).all()
    if rows % processes == 0 and rows >= processes:
        assert {len(mine) for mine in found} == {rows // processes}


@pytest.mark.parametrize(
    "groups, size, shards, parts",
    [(16, 16, 2, 1), (512, 16, 32, 1), (512, 16, 1024, 2), (7, 4, 4, 4), (1, 16, 8, 8), (512, 1, 3, 1), (5, 4, 1, 1)],
)
def test_groups_are_divided_only_where_that_saves_padding(groups, size, shards, parts):
    assert count_parts(groups, size, shards) == parts
    (cohort,) = make_cohorts([[i] for i in range(groups)], groups * size, None, 0, shards)
    per_shard = len(cohort.prompts) // shards
    for shard, numbers in enumerate(cohort.rows):
        prompts = np.repeat(np.arange(per_shard) + shard * per_shard, len(numbers) // per_shard)
        for prompt, number in zip(prompts, numbers, strict=True):
            assert number == groups * size or cohort.prompts[prompt] == [number // size]


def test_rows_that_an_earlier_wave_finished_go_round():
    (cohort,) = make_cohorts([[1]], 2, None, 0, 1)
    cohort = cohort._replace(rows=cohort.rows + 6)  # rows 0 to 5 lie on no shard
    found = [rows_of_process([cohort], 8, [[0, 1, 2]], process).tolist() for process in range(3)]
    assert sorted(i for mine in found for i in mine) == list(range(8)) and [i for i in found[1] if i < 6] == [1, 4]


@pytest.mark.parametrize(
    "flags, words",
    [
        (
            ["--model=deepseek-v3", "--mesh=fsdp:32,expert:32", "--processes=128"],
            ["128 of 8 devices each", "1,024, each on 1 processes", "8,192, 64 for each process"],
        ),
        (
            ["--model=qwen2.5-32b", "--mesh=8x8", "--processes=16"],
            ["16 of 4 devices each", "8, each on 2 processes", "8,192, 512 for each process"],
        ),
    ],
)
def test_the_papers_recipe_is_planned_for_pods(flags, words):
    command = cli.parse(STAGE.commands(), ["--recipe=paper", "--dry-run", *flags])
    text = plan_rl(command, command.numbers, "R1-Zero")
    assert all(word in text for word in words), text


def test_processes_that_cannot_have_equally_many_devices_are_refused():
    with pytest.raises(
        ValueError, match=r"--processes=5 does not divide the 64 devices of --mesh=8x8, .*--processes=4"
    ):
        describe_deal("8x8", 5, 512, 16)
