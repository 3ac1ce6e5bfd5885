"""Inputs that hypothesis makes: a few in the suite, very many in the long form.

The inputs follow from the test alone, so that every run tries the same ones, and what failed once fails again.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings

# The project's clear errors; everything else is a crash.
CLEAR = (OSError, ValueError, KeyError, FloatingPointError)

# Seconds that no input may take.
PATIENCE = 60

# So many times as many inputs in the long form: more than 100,000 in all.
FACTOR = int(os.environ.get("CENTERNET_D2_FUZZ_FACTOR", "200"))


def fuzzed(short):
    """Give a test the number of inputs that it tries: `short`, in the long form FACTOR times as many."""
    return pytest.mark.parametrize("inputs", [short, pytest.param(short * FACTOR, marks=pytest.mark.long)])


class Hung(BaseException):
    """An input took too long."""


def _hung(*_):
    raise Hung


def try_inputs(inputs, strategy, body, names=""):
    """Call body(input) with as many inputs; a clear error is a sentence, and as good as a result.

    Args:
        inputs, strategy: how many there are, and of what kind.
        body: fails if a result is wrong.
        names: the file or place that a clear error has to name.

    Returns:
        How many there were, and how many of them ended in a clear error.
    """
    tried, refused = 0, 0

    def attempt(value):
        nonlocal tried, refused
        tried += 1
        signal.alarm(PATIENCE)
        try:
            body(value)
        except CLEAR as error:
            message = str(error)
            # The text of a plain KeyError is the key alone.
            if " " not in message.strip() or names not in message:
                raise RuntimeError(f"an error that says too little: {message!r}") from error
            refused += 1
        finally:
            signal.alarm(0)

    options = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    before = signal.signal(signal.SIGALRM, _hung)
    try:
        settings(max_examples=inputs, **options)(given(strategy)(attempt))()
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{tried} inputs, {refused} of them refused with a clear error")
    return tried, refused
