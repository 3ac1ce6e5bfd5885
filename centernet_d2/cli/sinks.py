"""Sinks of results: a folder of images, a video, a JSON file. All files are valid whenever they are closed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from .sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageSource, VideoSource

__all__ = ["JsonSink", "PictureFile", "PictureSink", "VideoSink", "output_kind", "refuse_existing"]

# Codec by suffix, included in every build of OpenCV.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
# Suffixes of formats that OpenCV writes in color.
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def refuse_existing(path: Path) -> Path:
    """Return the path, unless it exists.

    Raises:
        FileExistsError: the path is a file, or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} already exists; nothing is overwritten, choose another name")
    return path


class Sink:
    """Context that receives one result after another."""

    def close(self) -> None:
        """Complete all files."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PictureSink(Sink):
    """PNG files in a folder, named like their source; a repeated name gets a number."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            FileExistsError: the folder contains files.
        """
        self.folder = refuse_existing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.taken: set[str] = set()

    def write(self, name: str, picture: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 BGR image."""
        stem, number = Path(name).stem, 1
        while (title := f"{stem}.png" if number == 1 else f"{stem}-{number}.png").lower() in self.taken:
            number += 1
        self.taken.add(title.lower())
        _write_picture(self.folder / title, picture)


class PictureFile(Sink):
    """Single image file, in the format of its suffix."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileExistsError: the file exists.
        """
        self.path = refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, picture: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 BGR image."""
        _write_picture(self.path, picture)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    # cv2.imwrite does not support non-ASCII paths on every system.
    path.write_bytes(cv2.imencode(path.suffix.lower(), picture)[1].tobytes())


class VideoSink(Sink):
    """Video with the size of its first image."""

    def __init__(self, path: Path, rate: float) -> None:
        """
        Args:
            path: ends in ``.mp4`` or ``.avi``.
            rate: frames per second.

        Raises:
            ValueError: another suffix.
            FileExistsError: the file exists.
        """
        if path.suffix.lower() not in CODECS:
            raise ValueError(f"{path}: the suffix of a video must be {' or '.join(CODECS)}")
        self.path = refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rate = rate
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def write(self, name: str, picture: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 BGR image; an image of another size is resized.

        Raises:
            OSError: the file cannot be written.
        """
        if self.writer is None:
            self.size = picture.shape[1::-1]
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.path), codec, self.rate, self.size)
            if not self.writer.isOpened():
                raise OSError(f"cannot write the video {self.path}")
        if picture.shape[1::-1] != self.size:
            picture = cv2.resize(picture, self.size)
        self.writer.write(picture)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.release()


class JsonSink(Sink):
    """JSON list, written entry by entry."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileExistsError: the file exists.
        """
        refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("x", encoding="utf-8")
        self.file.write("[")
        self.empty = True

    def write(self, results: Sequence[dict]) -> None:
        """Append entries in one write, so that an interruption cannot truncate one."""
        if results:
            text = ",\n".join(json.dumps(result, ensure_ascii=False) for result in results)
            self.file.write(("\n" if self.empty else ",\n") + text)
            self.empty = False

    def close(self) -> None:
        self.file.write("\n]\n")
        self.file.close()


def output_kind(
    path: Path, source: ImageSource | VideoSource
) -> type[PictureFile] | type[PictureSink] | type[VideoSink]:
    """Return the sink for an output path: a video or an image by its suffix, otherwise a folder of images.

    Raises:
        ValueError: the path is one image for several inputs, or has a suffix that cannot be written.
    """
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        if not isinstance(source, ImageSource) or len(source) != 1:
            what = f"there are {len(source)} images" if isinstance(source, ImageSource) else "a video has many"
            raise ValueError(f"{path} is a single image, but {what}: name a folder")
        if suffix not in PICTURES:
            raise ValueError(f"{path}: the suffix of an image must be one of {', '.join(PICTURES)}")
        return PictureFile
    if suffix in CODECS:
        return VideoSink
    if suffix in VIDEO_SUFFIXES or (suffix and source.rate is not None):
        raise ValueError(f"{path}: the suffix of a video must be {' or '.join(CODECS)}")
    return PictureSink
