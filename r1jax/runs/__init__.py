"""Reads and writes what a run keeps on disk or starts from: manifest, checkpoints, logs, warnings and first policy."""
