"""Fuzz tests with hypothesis: few inputs in the default suite, many in the long form.

The inputs are derived from the test alone, so that all runs are reproducible.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings

# Expected errors for invalid input; all other errors are crashes.
CLEAR = (OSError, ValueError, KeyError, FloatingPointError)

# Maximum time per input in seconds.
TIMEOUT = 60

# Factor on the number of inputs in the long form: more than 100,000 in total.
FACTOR = int(os.environ.get("CENTERNET_D2_FUZZ_FACTOR", "200"))


def fuzzed(short):
    """Parametrize a test with its number of inputs: `short`, or FACTOR times more in the long form."""
    return pytest.mark.parametrize("inputs", [short, pytest.param(short * FACTOR, marks=pytest.mark.long)])


class InputTimeoutError(BaseException):
    """Raised if an input takes longer than TIMEOUT."""


def _raise_timeout(*_):
    raise InputTimeoutError


def try_inputs(inputs, strategy, body, names=""):
    """Call body(input) for many inputs; errors of CLEAR with a complete message are accepted.

    Args:
        inputs, strategy: number of inputs and hypothesis strategy.
        body: function that fails for wrong results.
        names: file or location that error messages must contain.

    Returns:
        Number of inputs, and number of inputs with an accepted error.
    """
    tried, refused = 0, 0

    def attempt(value):
        nonlocal tried, refused
        tried += 1
        signal.alarm(TIMEOUT)
        try:
            body(value)
        except CLEAR as error:
            message = str(error)
            # The message of a plain KeyError is only the key.
            if " " not in message.strip() or names not in message:
                raise RuntimeError(f"incomplete error message: {message!r}") from error
            refused += 1
        finally:
            signal.alarm(0)

    options = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    before = signal.signal(signal.SIGALRM, _raise_timeout)
    try:
        settings(max_examples=inputs, **options)(given(strategy)(attempt))()
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{tried} inputs, {refused} of them refused with a clear error")
    return tried, refused
