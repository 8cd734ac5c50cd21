"""Data sets: readers, benchmarks, decontamination."""
