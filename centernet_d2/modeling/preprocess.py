"""Conversion of images into network input: canvases, color transforms, normalization, batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..imaging.geometry import Geometry, fixed_canvas, keep_canvas
from ..structures.types import DatasetDict
from ..utils.validation import ArgumentError, check_choice
from .heads.point_head import Property

__all__ = ["Preprocessor", "group_by_shape"]

TEST_RESOLUTIONS = ("keep", "fixed", "fixed_width")


class Preprocessor(nn.Module):
    """Converter from images to network input, with the inverse transform of each image."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        stride: int,
        properties: Sequence[Property] = (),
        test_resolution: str = "keep",
        fixed_size: Sequence[int] = (512, 512),
    ) -> None:
        """
        Args:
            pixel_mean, pixel_std: per channel, in 0..255.
            size_divisibility: divisor of the sizes of network inputs.
            stride: input pixels per map pixel.
            properties: validate and convert their own inputs of test images.
            test_resolution: "keep", "fixed" or "fixed_width" (original.md: Test resolution).
            fixed_size: height and width of the canvas unless "keep".

        Raises:
            ValueError: `test_resolution` is unknown, or the backbone does not support `fixed_size`.
        """
        super().__init__()
        check_choice("test_resolution", test_resolution, TEST_RESOLUTIONS)
        if len(fixed_size) != 2 or any(size <= 0 or size % size_divisibility for size in fixed_size):
            raise ArgumentError(
                "fixed_size",
                f"is {list(fixed_size)} (height, width), but this backbone needs positive multiples of "
                f"{size_divisibility}",
            )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.size_divisibility = size_divisibility
        self.stride = stride
        self.properties = list(properties)
        self.test_resolution = test_resolution
        self.fixed_size = (fixed_size[0], fixed_size[1])

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize (..., C, H, W) images in 0..255."""
        return (images - self.pixel_mean) / self.pixel_std

    def batch(self, canvases: Sequence[Tensor]) -> Tensor:
        """Stack (C, H, W) canvases of one size, transfer them as bytes and normalize them on the model's device."""
        return self.normalize(torch.stack(list(canvases)).to(self.pixel_mean.device, non_blocking=True))

    def training_batch(self, batched_inputs: Sequence[DatasetDict]) -> ImageList:
        """Build the normalized batch; smaller images are padded with black at the right and at the bottom."""
        # Batched on the device of the images, then transferred once, as bytes.
        images = ImageList.from_tensors([x["image"] for x in batched_inputs], self.size_divisibility)
        pixels = images.tensor.to(self.pixel_mean.device, non_blocking=True)
        if any("color" in x for x in batched_inputs):
            return ImageList(self._normalize_colors(pixels, images.image_sizes, batched_inputs), images.image_sizes)
        return ImageList(self.normalize(pixels.to(torch.float32)), images.image_sizes)

    def _normalize_colors(
        self, pixels: Tensor, sizes: Sequence[tuple[int, int]], batched_inputs: Sequence[DatasetDict]
    ) -> Tensor:
        """Normalize (B, C, H, W) images in 0..255 and apply their pending color transforms in the same step.

        Args:
            pixels: images of the given sizes (height, width), padded with black, which stays black.
            sizes: of the images.
            batched_inputs: ``color``, if present, is the (C, C + 1) affine transform of the colors of an image.
        """
        same = torch.eye(len(self.pixel_mean), len(self.pixel_mean) + 1)
        color = torch.stack([x.get("color", same) for x in batched_inputs]).to(pixels.device, non_blocking=True)
        matrix = color[:, :, :-1, None, None] / self.pixel_std[:, None]
        # Not a matrix product, which would be rounded under autocast or with TF32.
        result = self.normalize(color[:, :, -1, None, None]).repeat(1, 1, *pixels.shape[-2:])
        for channel, plane in enumerate(pixels.unbind(dim=1)):
            result.addcmul_(matrix[:, :, channel], plane[:, None].to(torch.float32))
        for image, (height, width) in zip(result, sizes, strict=True):
            if (height, width) != tuple(image.shape[-2:]):
                black = self.normalize(torch.zeros_like(self.pixel_mean))
                image[:, height:] = black
                image[:, :, width:] = black
        return result

    def canvases(
        self, batched_inputs: Sequence[DatasetDict], scale: float = 1.0
    ) -> tuple[list[Tensor], list[Geometry]]:
        """Return the uint8 canvas of each test image, on the device of the image, and its geometry.

        Args:
            batched_inputs: see :meth:`CenterNet.forward`.
            scale: test scale, by which the images are resized (original.md: Test resolution).

        Raises:
            ValueError: an input of a property is invalid.
        """
        canvases, geometries = [], []
        for x in batched_inputs:
            # DefaultPredictor passes the same integers as floats.
            image = _as_bytes(x["image"])
            if self.test_resolution == "keep":
                canvas, matrix = keep_canvas(image, self.size_divisibility, scale)
            else:
                canvas, matrix = fixed_canvas(image, self.fixed_size, scale, self.test_resolution == "fixed_width")
            image_size = (x.get("height", image.shape[1]), x.get("width", image.shape[2]))
            # The image may be a resized version of the original image.
            zoom = np.array([image_size[1] / image.shape[2], image_size[0] / image.shape[1]])
            to_image = matrix * zoom[:, None] * [self.stride, self.stride, 1]
            canvases.append(canvas)
            canvas_size = (canvas.shape[-2], canvas.shape[-1])
            geometries.append(Geometry(image_size, canvas_size, torch.from_numpy(to_image), self._read_inputs(x)))
        return canvases, geometries

    def _read_inputs(self, record: DatasetDict) -> dict[str, Any]:
        return {
            key: value
            for prop in self.properties
            for key, value in prop.carry({key: record[key] for key in prop.input_keys if key in record}, ()).items()
        }


def group_by_shape(canvases: Sequence[Tensor], limit: int | None = None) -> Iterator[list[int]]:
    """Yield indices of canvases that can be stacked: groups of one shape with at most `limit` members."""
    groups = defaultdict(list)
    for index, canvas in enumerate(canvases):
        groups[canvas.shape].append(index)
    for members in groups.values():
        step = limit or len(members)
        yield from (members[start : start + step] for start in range(0, len(members), step))


def _as_bytes(image: Tensor) -> Tensor:
    """Return an image of any type as uint8, rounded."""
    return image if image.dtype == torch.uint8 else image.float().round().clamp(0, 255).to(torch.uint8)
