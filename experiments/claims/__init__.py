"""Checks the project's claims. Each file states one claim, says how it is measured, and runs the measurement."""
