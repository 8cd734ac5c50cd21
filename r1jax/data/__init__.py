"""Data sets: readers, pipelines, decontamination."""
