"""Image sources: files, folders, globs, videos and cameras."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..imaging.reading import IMAGE_SUFFIXES, read_image

__all__ = ["Frame", "ImageSource", "VideoSource", "find_images", "open_source", "unsearched_folders"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        number: position in the source, from 1, including unreadable images.
        name: file name; for videos, the video name and the frame number.
        source: path of the file as specified by the user; for videos, the same as `name`.
        image: (H, W, 3) uint8 BGR; None if the image cannot be read.
        error: reason why the image cannot be read.
        inputs: additional inputs of properties, by key.
    """

    number: int
    name: str
    source: str
    image: np.ndarray | None
    error: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)


class ImageSource:
    """Image files, read one by one."""

    #: Frames per second; None for images.
    rate: float | None = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for number, path in enumerate(self.paths, 1):
            try:
                yield Frame(number, path.name, str(path), read_image(path))
            except OSError as error:
                yield Frame(number, path.name, str(path), None, str(error))


class VideoSource:
    """Frames of a video file or a camera."""

    def __init__(self, origin: str | int) -> None:
        """
        Args:
            origin: path of a video file, or index of a camera.

        Raises:
            OSError: OpenCV cannot open the file or the camera.
        """
        self.name = f"camera{origin}" if isinstance(origin, int) else Path(origin).stem
        self.capture = cv2.VideoCapture(origin)
        if not self.capture.isOpened():
            origin_name = f"the camera {origin}" if isinstance(origin, int) else f"the video {origin}"
            raise OSError(f"cannot open {origin_name}")
        self.rate = self.capture.get(cv2.CAP_PROP_FPS) or 25.0

    def __len__(self) -> int:
        """Return the number of frames declared by the file; 0 if unknown, as for cameras."""
        return max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        try:
            while True:
                more, image = self.capture.read()
                if not more:
                    return
                number += 1
                name = f"{self.name}-{number:06d}"
                yield Frame(number, name, name, image)
        finally:
            self.capture.release()


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Return files, images of folders and glob matches, without duplicates.

    Raises:
        FileNotFoundError: an input does not exist or contains no image.
    """
    images = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            own = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        elif path.exists():
            own = [path]
        else:
            matches = (Path(match) for match in sorted(glob.glob(entry, recursive=True)))
            own = [match for match in matches if match.is_file()]
        if not own:
            problem = "the folder contains no images" if path.is_dir() else "no file, folder or glob match exists"
            problem += f"; its {count} subfolders are not searched" if (count := _count_folders(path)) else ""
            raise FileNotFoundError(f"{entry}: {problem}")
        images.extend(own)
    return list(dict.fromkeys(images))


def unsearched_folders(inputs: Sequence[str]) -> dict[str, int]:
    """Return input folder -> number of subfolders, which are not searched."""
    return {entry: count for entry in inputs if (count := _count_folders(Path(entry)))}


def _count_folders(path: Path) -> int:
    return sum(inner.is_dir() for inner in path.iterdir()) if path.is_dir() else 0


def open_source(inputs: Sequence[str], camera: int | None = None) -> ImageSource | VideoSource:
    """Open the source of a command line.

    Raises:
        ValueError: no input is specified, or a video is not the only input.
        OSError: an input does not exist or cannot be opened.
    """
    if camera is not None:
        if inputs:
            raise ValueError("inputs and --camera are mutually exclusive")
        return VideoSource(camera)
    if not inputs:
        raise ValueError("no input is specified: add images, folders, globs or a video, or use --camera")
    paths = find_images(inputs)
    if not any(path.suffix.lower() in VIDEO_SUFFIXES for path in paths):
        return ImageSource(paths)
    if len(paths) > 1:
        raise ValueError("a video must be the only input")
    return VideoSource(str(paths[0]))
