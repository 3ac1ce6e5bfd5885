"""Objects and detections of reports from rows of numbers."""

import numpy as np

from centernet_d2.report.matching import Detections, Truth


def truth(*rows):
    """Return objects from (image, class, x, y, width, height, ignore)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    integers = table[:, :2].astype(int)
    return Truth(integers[:, 0], integers[:, 1], table[:, 2:6], table[:, 6] > 0, table[:, 4] * table[:, 5])


def detections(*rows):
    """Return detections from (image, class, x, y, width, height, score), in the order of the input."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    integers = table[:, :2].astype(int)
    return Detections(integers[:, 0], integers[:, 1], table[:, 2:6], table[:, 6])
