"""Output sinks for images, videos and JSON, which are valid whenever closed.

Sinks replace existing files; :func:`refuse_existing` prevents this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..imaging.reading import IMAGE_SUFFIXES
from .sources import VIDEO_SUFFIXES, ImageSource, VideoSource

__all__ = ["ImageFileSink", "ImageFolderSink", "JsonSink", "VideoSink", "output_kind", "refuse_existing"]

# Suffix -> codec that every build of OpenCV contains.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
# Suffixes of image formats that OpenCV can write in color.
WRITABLE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def refuse_existing(path: Path, advice: str = "choose another name") -> None:
    """Raise an error with advice if an output path is in use.

    Raises:
        FileExistsError: the path is a file, or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} already exists and is not overwritten; {advice}")


class Sink:
    """Context manager that receives one result at a time."""

    def close(self) -> None:
        """Complete all files."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ImageFolderSink(Sink):
    """Folder of PNG files, named like their source; repeated names are numbered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.used_names: set[str] = set()

    def write(self, name: str, image: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 BGR image."""
        stem, number = Path(name).stem, 1
        while (file_name := f"{stem}.png" if number == 1 else f"{stem}-{number}.png").lower() in self.used_names:
            number += 1
        self.used_names.add(file_name.lower())
        _write_image(self.folder / file_name, image)


class ImageFileSink(Sink):
    """Single image file, in the format given by its suffix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, image: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 BGR image."""
        _write_image(self.path, image)


def _write_image(path: Path, image: np.ndarray) -> None:
    # cv2.imwrite does not support non-ASCII paths on every system.
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())


class VideoSink(Sink):
    """Video file with the size of its first image."""

    def __init__(self, path: Path, rate: float) -> None:
        """
        Args:
            path: path that ends in ``.mp4`` or ``.avi``.
            rate: frames per second.

        Raises:
            ValueError: the path has another suffix.
        """
        if path.suffix.lower() not in CODECS:
            raise ValueError(f"{path}: the suffix of a video must be {' or '.join(CODECS)}")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rate = rate
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def write(self, name: str, image: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 BGR image; an image of another size is resized.

        Raises:
            OSError: the file cannot be written.
        """
        if self.writer is None:
            self.size = image.shape[1::-1]
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.path), codec, self.rate, self.size)
            if not self.writer.isOpened():
                raise OSError(f"cannot write the video {self.path}")
        if image.shape[1::-1] != self.size:
            image = cv2.resize(image, self.size)
        self.writer.write(image)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.release()


class JsonSink(Sink):
    """JSON file with a list, written entry by entry."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names that are not UTF-8 become escapes of JSON, which json.load reads back to the same name.
        self.file = path.open("w", encoding="utf-8", errors="backslashreplace")
        self.file.write("[")
        self.empty = True

    def write(self, results: Sequence[dict]) -> None:
        """Append entries with one write, so an interruption cannot truncate an entry."""
        if results:
            text = ",\n".join(json.dumps(result, ensure_ascii=False, allow_nan=False) for result in results)
            self.file.write(("\n" if self.empty else ",\n") + text)
            self.empty = False

    def close(self) -> None:
        self.file.write("\n]\n")
        self.file.close()


def output_kind(
    path: Path, source: ImageSource | VideoSource
) -> type[ImageFileSink] | type[ImageFolderSink] | type[VideoSink]:
    """Return the sink class of an output path.

    The suffix selects a video or an image file; all other paths are image folders.

    Raises:
        ValueError: the path is a single image for several inputs, or has an unsupported suffix.
    """
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        if not isinstance(source, ImageSource) or len(source) != 1:
            content = f"{len(source)} images" if isinstance(source, ImageSource) else "a video"
            raise ValueError(f"{path} is a single image, but the input is {content}: specify a folder")
        if suffix not in WRITABLE_SUFFIXES:
            raise ValueError(f"{path}: the suffix of an image must be one of {', '.join(WRITABLE_SUFFIXES)}")
        return ImageFileSink
    if suffix in CODECS:
        return VideoSink
    if suffix in VIDEO_SUFFIXES or (suffix and source.rate is not None):
        raise ValueError(f"{path}: the suffix of a video must be {' or '.join(CODECS)}")
    return ImageFolderSink
