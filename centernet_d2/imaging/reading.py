"""Conversion of image files, Pillow images and arrays to 3-channel uint8 arrays."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import BoundedSemaphore
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from tqdm import tqdm

from ..utils.files import check_local

__all__ = [
    "IMAGE_FORMATS",
    "IMAGE_SUFFIXES",
    "ImageHeader",
    "max_pixels",
    "pillow_to_rgb",
    "read_header",
    "read_headers",
    "read_image",
    "to_uint8_color",
]

# Raster formats that Pillow decodes by itself. Others are documents and vector graphics, for which it starts programs.
_RASTER_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI"),
    *("SUN", "TGA", "TIFF", "WEBP", "XBM"),
)
_SUFFIXES = Image.registered_extensions()  # Loads all plugins.
#: Supported formats, for the argument `formats` of ``Image.open``, which fails for formats unknown to older releases.
IMAGE_FORMATS = tuple(name for name in _RASTER_FORMATS if name in Image.OPEN)
#: Suffixes of the supported formats, in lower case.
IMAGE_SUFFIXES = tuple(sorted(suffix for suffix, name in _SUFFIXES.items() if name in IMAGE_FORMATS))

_EXIF_ORIENTATION = 274
# EXIF orientation -> Pillow operation that makes the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The limit above which Pillow warns: 256 MiB with three channels, and preprocessing makes several copies. Cameras have
# half as many pixels, but even a small file can declare any size.
_MAX_PIXELS = 89_478_485
# Marker in the pixel data of a JPEG file, except for stuffed bytes (FF 00) and restart markers.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_THREADS = 16
# Images per task of a thread, because a task costs as much as a third of a header.
_PART = 16
# Threads that decode images at the same time, each of up to :func:`max_pixels`.
_DECODERS = BoundedSemaphore(4)
# Last bytes of complete files.
_ENDS = {"GIF": b";", "JPEG": b"\xff\xd9", "JPEG2000": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# Modes of Pillow that are converted to RGB for any pixel values.
_MODES = {"1", "CMYK", "HSV", "I;16", "I;16B", "I;16L", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}
_ADVICE = "set the environment variable CENTERNET_D2_MAX_PIXELS to raise the limit"


def max_pixels() -> int:
    """Return the maximum number of pixels of an image.

    The environment variable CENTERNET_D2_MAX_PIXELS overrides the default of 89 million.

    Raises:
        ValueError: the variable is not a positive integer.
    """
    text = os.environ.get("CENTERNET_D2_MAX_PIXELS") or str(_MAX_PIXELS)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"the environment variable CENTERNET_D2_MAX_PIXELS is {text!r}, but must be a positive integer"
        )
    return int(text)


class ImageHeader(NamedTuple):
    """Size and orientation of an image file.

    Attributes:
        width, height: size in pixels, as stored.
        orientation: EXIF orientation: 1 is upright, 2 to 8 are flipped or rotated; 5 to 8 swap width and height.
    """

    width: int
    height: int
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the image that :func:`read_image` returns."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: str | Path) -> ImageHeader:
    """Read the size and the orientation of an image file.

    Files without the end marker of their format and images of rare modes are decoded, to find errors early.

    Raises:
        OSError: the file does not exist, is truncated, is not an image that :func:`read_image` reads, or exceeds
            :func:`max_pixels`; the message names the file.
    """
    with _open_image(path) as image:
        if image.mode not in _MODES or not _is_complete(image):
            with _DECODERS:
                pillow_to_rgb(image)
        # For a PNG file, Pillow would decode the pixels to find EXIF data after them, where few programs write them.
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
        return ImageHeader(*image.size, orientation if orientation in range(1, 9) else 1)


def _is_complete(image: ImageFile.ImageFile) -> bool:
    """Return True if the end of an image file proves that it is not truncated."""
    file, end = image.fp, _ENDS.get(image.format or "")
    if file is None or end is None:
        return False
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(end)))
    tail = file.read()
    file.seek(position)
    return tail == end


def read_headers(paths: Sequence[str | Path], title: str) -> list[ImageHeader | OSError]:
    """Read the headers of image files in parallel.

    20,000 JPEG files of 12 KB take 3 s on two cores.

    Args:
        paths: image files.
        title: title of the progress bar.

    Returns:
        The header of each file, or the error of :func:`read_header`.
    """
    parts = [paths[start : start + _PART] for start in range(0, len(paths), _PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = chain.from_iterable(pool.map(lambda part: [_header_or_error(path) for path in part], parts))
        return list(tqdm(headers, title, len(paths), unit=" images", leave=False, disable=len(paths) < 500))


def _header_or_error(path: str | Path) -> ImageHeader | OSError:
    try:
        return read_header(path)
    except OSError as error:
        return error


def read_image(path: str | Path, image_format: str = "BGR") -> np.ndarray:
    """Read an image file and apply its EXIF orientation.

    Unlike ``read_image`` of Detectron2, it scales 16-bit gray values instead of clipping them at 255. Transparency is
    ignored.

    Args:
        path: file in any format that Pillow supports.
        image_format: "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: the file does not exist, is not an image, or exceeds :func:`max_pixels`; the message names the file.
    """
    with _open_image(path) as image:
        if (pixels := _decode_plain(image, image_format)) is not None:
            return pixels
        rgb = pillow_to_rgb(image)
    return np.ascontiguousarray(rgb[..., ::-1]) if image_format == "BGR" else rgb


def _decode_plain(image: ImageFile.ImageFile, image_format: str) -> np.ndarray | None:
    """Decode a plain JPEG file with OpenCV, which is faster than Pillow and returns the same pixels.

    A plain file contains a single upright RGB image, and no data after it. Truncated files are left to Pillow, because
    OpenCV fills missing pixels with gray instead of raising an error.

    Args:
        image: opened file.
        image_format: "BGR" or "RGB".

    Returns:
        (H, W, 3) uint8; None if the file is not plain, or OpenCV cannot decode it.
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
    """Convert a Pillow image of any mode to RGB, like :func:`read_image`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        OSError: the file of the image is damaged.
        ValueError: the image is empty, exceeds :func:`max_pixels`, or has values that are not 16-bit gray values.
    """
    _check_pixels(image)
    image = _upright(image)
    is_deep = image.mode.startswith(("I", "F"))
    return to_uint8_color(_gray_to_uint16(np.asarray(image)) if is_deep else np.asarray(image.convert("RGB")))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of an image; unreadable EXIF data are ignored."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # Pillow's parser raises arbitrary exceptions.
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _check_pixels(image: Image.Image) -> None:
    """Raise a ValueError if an image, which need not be decoded yet, exceeds :func:`max_pixels`."""
    limit = max_pixels()
    if image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels exceed the limit of {limit}; {_ADVICE}")


@contextmanager
def _open_image(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file; convert all errors, including errors in the context, to an OSError that names the file."""
    check_local(path, "the image")
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow raises an error above twice its own limit, and warns above its limit.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # Reading a pipe or a device may never end.
            raise ValueError("it is not a regular file")
        with open(path, "rb") as file, Image.open(file, formats=IMAGE_FORMATS) as image:
            _check_pixels(image)
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"the image {path} does not exist") from None
    except UnidentifiedImageError as error:
        raise OSError(
            f"cannot read the image {path}: it is damaged, or in none of the formats {', '.join(IMAGE_FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise OSError(f"cannot read the image {path}: its pixels exceed the limit of {limit}; {_ADVICE}") from error
    except Exception as error:  # Pillow's decoders raise arbitrary exceptions.
        raise OSError(f"cannot read the image {path}: {error}") from error


def _gray_to_uint16(pixels: np.ndarray) -> np.ndarray:
    """Convert gray values of more than 8 bits, of any dtype that Pillow returns, to uint16."""
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its values ({pixels.dtype}) are not 16-bit gray values")
    return pixels.astype(np.uint16)


def _floats_to_bytes(pixels: np.ndarray) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if low >= 0 and 0 < high <= 1:
        raise ValueError("a float image must have values in 0..255, but its values are in 0..1: multiply it by 255")
    if not (low >= 0 and high <= 255):
        raise ValueError(f"a float image must have values in 0..255, but its values are in {low:g}..{high:g}: clip it")
    return np.round(pixels).astype(np.uint8)


def to_uint8_color(pixels: np.ndarray) -> np.ndarray:
    """Convert an image array to (H, W, 3) uint8 with the same channel order.

    Args:
        pixels: (H, W) or (H, W, 1) gray, (H, W, 3), or (H, W, 4), whose last channel is ignored. The dtype is uint8;
            uint16, which is scaled from 0..65535; or float in 0..255, which is rounded.

    Raises:
        ValueError: unsupported shape, dtype or value range.
    """
    is_array = isinstance(pixels, np.ndarray)
    if not is_array or not (pixels.dtype in (np.uint8, np.uint16) or np.issubdtype(pixels.dtype, np.floating)):
        kind = pixels.dtype if is_array else type(pixels).__name__
        raise ValueError(f"an image must be an array of uint8, uint16 or float in 0..255, not {kind}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(f"an image must be (H, W), or (H, W, C) with 1, 3 or 4 channels, not {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = _floats_to_bytes(pixels[..., :3])
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])
