"""Marks of parameters: `pytest.param(.., marks=WEEKLY)`."""

import pytest

WEEKLY = (pytest.mark.slow, pytest.mark.weekly)
