"""Inputs that hypothesis makes: a few in the suite, very many in the long form.

The inputs follow from the test alone, so that every run tries the same ones, and what failed once fails again.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

# The project's clear errors; everything else is a crash.
CLEAR = (OSError, ValueError, KeyError, FloatingPointError)

# So many times as many inputs in the long form: more than 100,000 in all.
FACTOR = int(os.environ.get("CENTERNET_D2_FUZZ_FACTOR", "200"))


def fuzzed(short):
    """Give a test the number of inputs that it tries: `short`, in the long form FACTOR times as many."""
    return pytest.mark.parametrize("inputs", [short, pytest.param(short * FACTOR, marks=pytest.mark.long)])


def try_inputs(inputs, strategy, body):
    """Call body(input) with as many inputs; a clear error has to say something, and is as good as a result.

    Returns:
        How many there were, and how many of them ended in a clear error.
    """
    tried, refused = 0, 0

    def attempt(value):
        nonlocal tried, refused
        tried += 1
        try:
            body(value)
        except CLEAR as error:
            if not str(error):
                raise RuntimeError("an error that says nothing") from error
            refused += 1

    options = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    settings(max_examples=inputs, **options)(given(strategy)(attempt))()
    print(f"{tried} inputs, {refused} of them refused with a clear error")
    return tried, refused
