"""Preprocessing of images: canvases, color transforms, normalization, batching."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..imaging.geometry import Geometry, fixed_canvas, keep_canvas, size_tensor
from ..imaging.reading import max_pixels
from ..structures.types import DatasetDict
from ..utils.validation import ArgumentError, check_choice
from .heads.point_head import Property

__all__ = ["Preprocessor", "group_by_shape"]

TEST_RESOLUTIONS = ("keep", "fixed", "fixed_width")


class Preprocessor(nn.Module):
    """Conversion of images to network input, with the inverse transform per image."""

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
            pixel_mean, pixel_std: mean and standard deviation per channel, in 0..255.
            size_divisibility: height and width of network inputs are multiples of this number.
            stride: input pixels per map pixel.
            properties: properties of the heads; each validates and converts its inputs of test images.
            test_resolution: "keep", "fixed" or "fixed_width" (original.md: Test resolution).
            fixed_size: height and width of the canvas, not used by "keep".

        Raises:
            ValueError: `test_resolution` is unknown, or `fixed_size` exceeds :func:`max_pixels` or is not supported by
                the backbone.
        """
        super().__init__()
        check_choice("test_resolution", test_resolution, TEST_RESOLUTIONS)
        if len(fixed_size) != 2 or any(size <= 0 or size % size_divisibility for size in fixed_size):
            raise ArgumentError(
                "fixed_size",
                f"is {list(fixed_size)} (height, width), but this backbone needs positive multiples of "
                f"{size_divisibility}",
            )
        if fixed_size[0] * fixed_size[1] > max_pixels():
            raise ArgumentError(
                "fixed_size", f"is {list(fixed_size)}, which exceeds the limit of {max_pixels()} pixels"
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
        """Stack (C, H, W) canvases of the same size and normalize them.

        Canvases are transferred to the model's device as uint8 and normalized there.
        """
        return self.normalize(torch.stack(list(canvases)).to(self.pixel_mean.device, non_blocking=True))

    def training_batch(self, batched_inputs: Sequence[DatasetDict]) -> ImageList:
        """Build the normalized batch.

        Smaller images are padded with black at the right and at the bottom.
        """
        # Batch on the device of the images, then transfer once, as uint8.
        images = ImageList.from_tensors([x["image"] for x in batched_inputs], self.size_divisibility)
        pixels = images.tensor.to(self.pixel_mean.device, non_blocking=True)
        if any("color" in x for x in batched_inputs):
            return ImageList(self._normalize_colors(pixels, images.image_sizes, batched_inputs), images.image_sizes)
        return ImageList(self.normalize(pixels.to(torch.float32)), images.image_sizes)

    def _normalize_colors(
        self, pixels: Tensor, sizes: Sequence[tuple[int, int]], batched_inputs: Sequence[DatasetDict]
    ) -> Tensor:
        """Apply pending color transforms and normalize, in one step.

        Args:
            pixels: (B, C, H, W) images in 0..255, padded with black; the padding stays black.
            sizes: (height, width) of each image without padding.
            batched_inputs: ``color``, if present, is a (C, C + 1) affine transform of the colors of an image.
        """
        identity = torch.eye(len(self.pixel_mean), len(self.pixel_mean) + 1)
        color = torch.stack([x.get("color", identity) for x in batched_inputs]).to(pixels.device, non_blocking=True)
        matrix = color[:, :, :-1, None, None] / self.pixel_std[:, None]
        # A matrix product would lose precision under autocast or with TF32.
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
        """Build the canvas and the geometry of each test image.

        Args:
            batched_inputs: see :meth:`CenterNet.forward`.
            scale: resize factor of multi-scale testing (original.md: Test resolution).

        Returns:
            uint8 canvases on the devices of the images, and their geometries.

        Raises:
            ValueError: if an input of a property is invalid.
        """
        canvases, geometries = [], []
        for x in batched_inputs:
            # DefaultPredictor passes integers as floats.
            image = _as_bytes(x["image"])
            image_size = (x.get("height", image.shape[1]), x.get("width", image.shape[2]))
            canvas, geometry = self.canvas(image, image_size, self._read_inputs(x), scale)
            canvases.append(canvas)
            geometries.append(geometry)
        return canvases, geometries

    def canvas(
        self, image: Tensor, image_size: tuple[int, int], inputs: Mapping[str, Any], scale: float = 1.0
    ) -> tuple[Tensor, Geometry]:
        """Build the canvas and the geometry of one test image.

        All operations can be exported.

        Args:
            image: (C, H, W) uint8, which may be a resized version of the original image.
            image_size: (height, width) of the original image.
            inputs: validated inputs of properties.
            scale: see :meth:`canvases`.
        """
        if self.test_resolution == "keep":
            canvas, matrix = keep_canvas(image, self.size_divisibility, scale)
        else:
            canvas, matrix = fixed_canvas(image, self.fixed_size, scale, self.test_resolution == "fixed_width")
        zoom = size_tensor((image_size[1] / image.shape[2], image_size[0] / image.shape[1]))
        to_image = matrix * zoom[:, None] * size_tensor((self.stride, self.stride, 1))
        return canvas, Geometry(image_size, (canvas.shape[-2], canvas.shape[-1]), to_image, inputs)

    def _read_inputs(self, record: DatasetDict) -> dict[str, Any]:
        return {
            key: value
            for prop in self.properties
            for key, value in prop.carry({key: record[key] for key in prop.input_keys if key in record}, ()).items()
        }


def group_by_shape(canvases: Sequence[Tensor], limit: int | None = None) -> Iterator[list[int]]:
    """Yield indices of canvases of the same shape, in groups of at most `limit`."""
    groups = defaultdict(list)
    for index, canvas in enumerate(canvases):
        groups[canvas.shape].append(index)
    for members in groups.values():
        step = limit or len(members)
        yield from (members[start : start + step] for start in range(0, len(members), step))


def _as_bytes(image: Tensor) -> Tensor:
    """Convert an image of any dtype to uint8, with rounding."""
    return image if image.dtype == torch.uint8 else image.float().round().clamp(0, 255).to(torch.uint8)
