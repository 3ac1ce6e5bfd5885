import numpy as np
import torch

CHECKS = []


def checks(*patterns):
    """Register a function (path, comparison, tmp_path) as the check of files that match a pattern."""

    def register(function):
        CHECKS.extend((pattern, function) for pattern in patterns)
        return function

    return register


def as_array(value):
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


class Comparison:
    """Comparison of our outputs with the arrays of one recorded file."""

    def __init__(self):
        self.arrays = 0
        self.worst = 0.0
        self.failures = []

    def close(self, name, ours, recorded, atol=0.0, rtol=0.0):
        """Compare all elements with tolerance atol + rtol * |recorded|; skip if `recorded` is None."""
        if recorded is None:
            return
        ours, recorded = as_array(ours), as_array(recorded)
        self.arrays += 1
        if ours.shape != recorded.shape:
            self.failures.append(f"at {name}: shape {ours.shape} instead of {recorded.shape}")
            return
        if ours.size == 0:
            return
        deviation = np.abs(ours.astype(np.float64) - recorded.astype(np.float64))
        self.worst = max(self.worst, float(deviation.max()))
        if not (deviation <= atol + rtol * np.abs(recorded)).all():
            self.failures.append(f"max={deviation.max():.1e} at {name}")

    def equal(self, name, ours, recorded):
        """Compare values of any type for equality; skip if `recorded` is None."""
        if recorded is None:
            return
        ours, recorded = as_array(ours), as_array(recorded)
        self.arrays += 1
        if ours.shape != recorded.shape or not (ours == recorded).all():
            self.failures.append(f"max=different at {name}")

    def fail(self, message):
        self.failures.append(message)

    def __str__(self):
        if self.failures:
            return f"FAIL {'; '.join(self.failures)}"
        return f"ok arrays={self.arrays} max={self.worst:.1e}"
