"""Estimates, from array shapes alone, what memory and time a run needs, and how fast the hardware could run it."""
