"""Image sources: files, folders, globs, videos, streams and cameras."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from ..imaging.reading import IMAGE_SUFFIXES, read_header, read_image
from ..utils.files import check_local

__all__ = ["Frame", "ImageSource", "VideoSource", "find_images", "open_source", "skipped_content"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
# Protocols that OpenCV streams. Other URLs are files, which are not downloaded.
_STREAM = re.compile(r"(https?|rtmps?|rtp|rtsps?|srt|tcp|udp)://", re.IGNORECASE)


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
    """Frames of a video file, a stream or a camera."""

    def __init__(self, origin: str | int) -> None:
        """
        Args:
            origin: path of a video file, URL of a stream, or index of a camera.

        Raises:
            OSError: OpenCV cannot open it.
        """
        self.origin = origin
        self.name = f"camera{origin}" if isinstance(origin, int) else Path(urlsplit(origin).path).stem or "stream"
        with _silent_opencv():
            self.capture = cv2.VideoCapture(origin)
        if not self.capture.isOpened():
            raise OSError(_cannot_open(origin))
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else 25.0  # Streams may declare any number.

    def __len__(self) -> int:
        """Return the number of frames declared by the file; 0 if unknown, as for cameras."""
        return max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        try:
            while True:
                more, image = self.capture.read()
                if not more:
                    break
                number += 1
                name = f"{self.name}-{number:06d}"
                yield Frame(number, name, name, image)
            # For some formats, the declared number is an estimate.
            if number < 0.98 * len(self) - 1:
                problem = f"the video {self.origin} is truncated: {number} of {len(self)} frames can be read"
                yield Frame(number + 1, self.name, self.name, None, problem)
        finally:
            self.capture.release()


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Suppress the messages of OpenCV about each backend that cannot open a source."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _cannot_open(origin: str | int) -> str:
    if isinstance(origin, int):
        return (
            f"cannot open camera {origin}: connect it, close other programs that use it, or choose another index, such "
            f"as --camera {origin + 1}"
        )
    if _STREAM.match(origin):
        return f"cannot open the stream {origin}; images and other files are not downloaded"
    return f"cannot open the video {origin}"


def _is_video(path: Path) -> bool:
    """Return True if a file is a video, according to its suffix or else its content."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
        return suffix in VIDEO_SUFFIXES
    try:
        read_header(path)
    except OSError:
        return path.is_file() and cv2.VideoCapture(str(path)).isOpened()
    return False


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
            raise FileNotFoundError("; ".join([f"{entry}: {problem}", *skipped_content([entry])]))
        images.extend(own)
    return list(dict.fromkeys(images))


def skipped_content(inputs: Sequence[str]) -> list[str]:
    """Return messages about files and subfolders of input folders that are skipped."""
    messages = []
    for folder in (path for path in map(Path, inputs) if path.is_dir()):
        inner = [path for path in folder.iterdir() if not path.name.startswith(".")]
        folders = sum(path.is_dir() for path in inner)
        others = [path for path in inner if not path.is_dir() and path.suffix.lower() not in IMAGE_SUFFIXES]
        if folders:
            messages.append(f"{folder}: {folders} subfolders are not searched; use '{folder}/**/*.jpg' to search them")
        if others:
            kinds = Counter(path.suffix.lower() or "no suffix" for path in others).most_common(8)
            endings = ", ".join(f"{count} {kind}" for kind, count in kinds)
            messages.append(f"{folder}: {len(others)} files are not images, skipped ({endings})")
    return messages


def open_source(inputs: Sequence[str], camera: int | None = None) -> ImageSource | VideoSource:
    """Open the source of a command line.

    Raises:
        ValueError: a video is not the only input.
        OSError: an input does not exist or cannot be opened.
    """
    if camera is not None:
        if inputs:
            raise ValueError("inputs and --camera are mutually exclusive")
        return VideoSource(camera)
    urls = [entry for entry in inputs if "://" in entry]
    for url in urls:
        if not _STREAM.match(url) or Path(urlsplit(url).path).suffix.lower() in IMAGE_SUFFIXES:
            check_local(url, "the input")
    paths = find_images([entry for entry in inputs if entry not in urls])
    videos = urls + [str(path) for path in paths if _is_video(path)]
    if videos and len(urls) + len(paths) > 1:
        raise ValueError(f"a video or stream must be the only input, such as {videos[0]}")
    return VideoSource(videos[0]) if videos else ImageSource(paths)
