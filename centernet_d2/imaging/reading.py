"""Pictures of every kind as what a model reads: three colours of one byte."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile
from tqdm import tqdm

from ..utils.files import check_local

__all__ = ["ImageHeader", "as_color_bytes", "max_pixels", "pillow_to_rgb", "read_header", "read_headers", "read_image"]

_EXIF_ORIENTATION = 274
# Value of that tag -> the operation that makes the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow starts to warn: a quarter of a GiB in three colours, of which there are several copies on the way to a
# model. Cameras have half of it; a small file can say any number.
_MAX_PIXELS = 89_478_485
# In the pixels of a JPEG file: what is neither a byte of 255 nor a place to restart from.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_THREADS = 16
_ADVICE = "set the environment variable CENTERNET_D2_MAX_PIXELS to as many if this is right"


def max_pixels() -> int:
    """$CENTERNET_D2_MAX_PIXELS, the pixels that an image may have to be read; by default 89 million.

    Raises:
        ValueError: the variable is no positive whole number.
    """
    text = os.environ.get("CENTERNET_D2_MAX_PIXELS") or str(_MAX_PIXELS)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"the environment variable CENTERNET_D2_MAX_PIXELS is {text!r}, but must be a number of pixels"
        )
    return int(text)


class ImageHeader(NamedTuple):
    """What an image file says of itself.

    Attributes:
        width, height: in pixels, as stored.
        orientation: of EXIF: 1 is upright, 2 to 8 are mirrored or turned, from 5 on with width and height swapped.
    """

    width: int
    height: int
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the image that :func:`read_image` returns."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: str | Path) -> ImageHeader:
    """Size and orientation of an image file, without decoding it.

    Raises:
        OSError: the file does not exist, is no image, or has more than :func:`max_pixels`; the message names it.
    """
    with _opened(path) as image:
        # Pillow would decode a PNG in search of EXIF data behind its pixels, where hardly any program writes them.
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
        return ImageHeader(*image.size, orientation if orientation in range(1, 9) else 1)


def read_headers(paths: Sequence[str | Path], title: str) -> list[ImageHeader | OSError]:
    """Read the headers of images in parallel: 20,000 JPEG files of 12 KB take 3 s on two cores.

    Args:
        paths: image files.
        title: of the progress bar.

    Returns:
        For each path its header, or the error of :func:`read_header`.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(_header_or_error, paths)
        return list(tqdm(found, title, len(paths), unit=" images", leave=False, disable=len(paths) < 500))


def _header_or_error(path: str | Path) -> ImageHeader | OSError:
    try:
        return read_header(path)
    except OSError as error:
        return error


def read_image(path: str | Path, image_format: str = "BGR") -> np.ndarray:
    """Read an image file, turned upright as its EXIF data say, like Detectron2's ``read_image``.

    Unlike there, 16-bit grey values are scaled and not cut off at 255; transparency is ignored in both.

    Args:
        path: a file of any type that Pillow knows.
        image_format: "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: the file does not exist, is no image, or has more than :func:`max_pixels`; the message names it.
    """
    with _opened(path) as image:
        if (pixels := _decode_plain(image, image_format)) is not None:
            return pixels
        rgb = pillow_to_rgb(image)
    return np.ascontiguousarray(rgb[..., ::-1]) if image_format == "BGR" else rgb


def _decode_plain(image: ImageFile.ImageFile, image_format: str) -> np.ndarray | None:
    """The pixels of a plain JPEG file by OpenCV, which is faster than Pillow and gives the same ones.

    Plain is one upright image of three colours that ends where its pixels end. OpenCV fills what was cut off with grey,
    without an error.

    Args:
        image: a file whose header is read.
        image_format: "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8; None where the file is not plain, or OpenCV refuses it: Pillow has to look.
    """
    file = image.fp
    if file is None or image.format != "JPEG" or image.mode != "RGB":
        return None
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        return None
    header = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(header)
    first = content.rfind(b"\xff\xda") + 2 if "progressive" in image.info else header
    end = _JPEG_MARKER.search(content, first)
    if end is None or end.group() != b"\xff\xd9" or end.end() < len(content):
        return None
    order = cv2.IMREAD_COLOR_BGR if image_format == "BGR" else cv2.IMREAD_COLOR_RGB
    try:
        return cv2.imdecode(np.frombuffer(content, dtype=np.uint8), order | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def pillow_to_rgb(image: Image.Image) -> np.ndarray:
    """An image of Pillow's, of any mode, as :func:`read_image` would read it from a file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        OSError: its file is damaged.
        ValueError: it has no pixels, more than :func:`max_pixels`, or numbers that are no grey values.
    """
    _check_pixels(image)
    image = _upright(image)
    deep = image.mode.startswith(("I", "F"))
    return as_color_bytes(_deep_grey(np.asarray(image)) if deep else np.asarray(image.convert("RGB")))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of an image; unreadable EXIF data are ignored."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # Pillow raises whatever its parser stumbles over.
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _check_pixels(image: Image.Image) -> None:
    """Raise a ValueError for an image, not decoded yet, that has more pixels than may be read."""
    limit = max_pixels()
    if image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} are more than {limit} pixels; {_ADVICE}")


@contextmanager
def _opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """An image whose header is read; all errors, those of the block too, become an OSError that names the file."""
    check_local(path, "the image")
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow's own, beyond twice of which it opens nothing.
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # Pipes and devices may never end.
            raise ValueError("it is no file")
        with open(path, "rb") as file, Image.open(file) as image:
            _check_pixels(image)
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"the image {path} does not exist") from None
    except Image.DecompressionBombError as error:
        raise OSError(f"cannot read the image {path}: it has more than {limit} pixels; {_ADVICE}") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble over.
        raise OSError(f"cannot read the image {path}: {error}") from error


def _deep_grey(pixels: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, in whichever type Pillow has them, as uint16."""
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its values ({pixels.dtype}) are no grey values of 16 bits")
    return pixels.astype(np.uint16)


def _floats_to_bytes(pixels: np.ndarray) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if low >= 0 and 0 < high <= 1:
        raise ValueError("an image of floats must have values in 0..255, but these are in 0..1: multiply it by 255")
    if not (low >= 0 and high <= 255):
        raise ValueError(f"an image of floats must have values in 0..255, but these are in {low:g}..{high:g}: clip it")
    return np.round(pixels).astype(np.uint8)


def as_color_bytes(pixels: np.ndarray) -> np.ndarray:
    """An array of one, three or four channels as (H, W, 3) uint8; the order of the channels stays.

    Args:
        pixels: (H, W) or (H, W, 1) grey, (H, W, 3), or (H, W, 4) whose last channel is ignored; uint8; uint16, which is
            scaled from 0..65535; or floats in 0..255, which are rounded.

    Raises:
        ValueError: another shape or type, or floats in another range.
    """
    is_array = isinstance(pixels, np.ndarray)
    if not is_array or not (pixels.dtype in (np.uint8, np.uint16) or np.issubdtype(pixels.dtype, np.floating)):
        kind = pixels.dtype if is_array else type(pixels).__name__
        raise ValueError(f"an image must be an array of uint8, uint16 or floats in 0..255, not {kind}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(f"an image must be (H, W), or (H, W, C) with 1, 3 or 4 channels, not {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = _floats_to_bytes(pixels[..., :3])
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])
