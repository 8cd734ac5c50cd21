"""Holds the benchmarks. Each benchmark tests a claim about speed or exactness, and measures a baseline if there is one.

Run: python -m experiments.bench NAME [--size=toy] [--repeats=N]      one JSON line
     python -m experiments.bench.scale --mesh=fsdp:8                  what one device computes, sends and holds
     python -m experiments.bench all                                  a table, and one JSON line each in bench.jsonl

C1 to C13 are the claims that are measured on CPUs. G0 to G5 are the measurements on a GPU, in the module
`gpu`. A peer is another package, such as TRL. A JSON line of C1 to C13 holds:

value       r1jax's result
baseline    the result of the peer or of the plain method; "missing" if the peer is not installed
ratio       the quotient of value and baseline; the benchmark's docstring says which is divided by the other
limit       the hardware's limit, from r1jax.planning.roofline
fraction    the part of the limit that is reached: value / limit for a speed, limit / value for a time
spread      (maximum − minimum) / median of the repeats
goals       each goal, and whether it is met

The line also holds the machine's load, and the versions of packages. r1jax and its baselines take turns after
compilation, and the medians of their repeats are compared. Machines are shared, so times are CPU seconds of one thread
unless stated otherwise. A peer runs in a process of its own, under the interpreter that `--tunix-python`,
`--transformers-python` or `--trl-python` names.
"""
