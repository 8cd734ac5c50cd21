"""Benchmarks: each measures one claim about speed or exactness, beside what it claims to beat, in the same run.

Run: python -m experiments.bench NAME [--size=toy] [--repeats=N]      one JSON line
     python -m experiments.bench all                                  a table, a JSON line each in bench.jsonl

A line holds `value`, `baseline`, `ratio`, `limit` and `fraction` (of r1jax.limits), `spread` (range of the repeats over
their median), `goals` with whether each is met, the load of the machine and versions. Sides take turns, repeat by
repeat, after compilation; medians are compared. Machines are shared: where nothing else is said the measure is CPU
seconds of one thread. Peers run in processes of their own, from `--tunix-python`, `--transformers-python`,
`--trl-python`; one that lacks the package is "missing".
"""
