"""Synthetic images and weights of the recorded files (golden/README.md, sections 1 and 2)."""

import zlib

import numpy as np
import torch


def image(height, width, k):
    """Generate an (H, W, 3) uint8 image."""

    def triangle(t, period):
        return np.abs(t % (2 * period) - period)

    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    value = (
        triangle(x + 7 * c + 5 * k, 61) * 255 // 61
        + triangle(2 * y + 13 * c + 3 * k, 83) * 255 // 83
        + triangle(x + y + 29 * c, 47) * 255 // 47
    )
    return (value // 3).astype(np.uint8)


def weights(shapes):
    """Generate weights by name from the shapes of all entries of a network."""
    return {name: torch.from_numpy(_weight(name, tuple(shape), shapes)) for name, shape in shapes.items()}


def _weight(name, shape, names):
    path, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return np.array(0, dtype=np.int64)
    noise = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    if kind in ("running_mean", "bias"):
        value = 0.1 * noise
    elif kind == "running_var":
        value = 1 + 0.1 * np.abs(noise)
    elif len(shape) == 1:
        value = 1 + 0.1 * noise
    else:
        value = noise * np.sqrt(2 / np.prod(shape[1:])) * _factor(path, shape, names)
    return np.asarray(value, dtype=np.float32)


def _factor(path, shape, names):
    factor = shape[2] / 2 if len(shape) > 2 and shape[2] % 2 == 0 else 1.0
    if path.endswith("conv_offset_mask"):
        return factor * 0.1
    if f"{path}.conv_offset_mask.weight" in names:
        return factor * 2
    block, _, last = path.rpartition(".")
    closing = "conv3" if f"{block}.conv3.weight" in names else "conv2"
    return factor * 0.25 if block and last == closing else factor
