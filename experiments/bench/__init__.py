"""Holds the benchmarks. Each benchmark measures one claim about speed or exactness, together with a baseline.

Run: python -m experiments.bench NAME [--size=toy] [--repeats=N]      one JSON line
     python -m experiments.bench.scale --mesh=fsdp:8                  what one device computes, sends and holds
     python -m experiments.bench all                                  a table, and one JSON line each in bench.jsonl

The names C1, C2, ... and G0, G1, ... number the claims. A line holds the result (`value`), the peer's result
(`baseline`) and `ratio`, which compares the two. `limit` is the hardware's limit from r1jax.planning.roofline, and
`fraction` is value / limit. `spread` is (maximum − minimum) / median of the repeats. `goals` says whether each goal is
met. The line also holds the machine's load, and the versions of packages. r1jax and its baselines take turns after
compilation, and the medians of their repeats are compared. Machines are shared, so times are CPU seconds of one thread
unless stated otherwise. A peer is another package. It runs in a process of its own, under the interpreter
`--tunix-python`, `--transformers-python` or `--trl-python`. The baseline of a peer that is not installed is "missing".
"""
