"""Where results go: a folder of pictures, a video, a JSON file. All are valid files whenever they are closed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from .sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageSource, VideoSource

__all__ = ["JsonSink", "PictureFile", "PictureSink", "VideoSink", "output_kind", "refuse_existing"]

# By suffix: a codec that OpenCV's own build has.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
# Formats that OpenCV writes in color.
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def refuse_existing(path: Path) -> Path:
    """The path itself, unless something is there already.

    Raises:
        FileExistsError: a file, or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; nothing is overwritten, so choose another name")
    return path


class Sink:
    """A context that takes one result after the other."""

    def close(self) -> None:
        """Leave valid files behind."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PictureSink(Sink):
    """PNG files in a folder, called like their source; a second one of the same name gets a number."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            FileExistsError: the folder has files already.
        """
        self.folder = refuse_existing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.taken: set[str] = set()

    def write(self, name: str, picture: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 BGR picture."""
        stem, number = Path(name).stem, 1
        while (title := f"{stem}.png" if number == 1 else f"{stem}-{number}.png").lower() in self.taken:
            number += 1
        self.taken.add(title.lower())
        _write_picture(self.folder / title, picture)


class PictureFile(Sink):
    """A single picture, in the format that its name says."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileExistsError: the file exists.
        """
        self.path = refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, picture: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 BGR picture."""
        _write_picture(self.path, picture)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    # OpenCV's own writing does not know every letter of a path on every system.
    path.write_bytes(cv2.imencode(path.suffix.lower(), picture)[1].tobytes())


class VideoSink(Sink):
    """A video of the size of its first picture."""

    def __init__(self, path: Path, rate: float) -> None:
        """
        Args:
            path: ends in ``.mp4`` or ``.avi``.
            rate: frames per second.

        Raises:
            ValueError: another ending.
            FileExistsError: the file exists.
        """
        if path.suffix.lower() not in CODECS:
            raise ValueError(f"{path}: videos end in {' or '.join(CODECS)}")
        self.path = refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rate = rate
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def write(self, name: str, picture: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 BGR picture; one of another size is fitted in.

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
    """A JSON list, written entry by entry."""

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
        """Append entries; they are written in one piece, so that a stop in between cannot cut one."""
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
    """Which sink a name stands for: a video or a picture by its ending, else a folder of pictures.

    Raises:
        ValueError: it is a picture for several images, or has an ending that cannot be written.
    """
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        if not isinstance(source, ImageSource) or len(source) != 1:
            what = f"there are {len(source)} images" if isinstance(source, ImageSource) else "a video has many"
            raise ValueError(f"{path} is one picture, but {what}: name a folder")
        if suffix not in PICTURES:
            raise ValueError(f"{path}: pictures end in {', '.join(PICTURES)}")
        return PictureFile
    if suffix in CODECS:
        return VideoSink
    if suffix in VIDEO_SUFFIXES or (suffix and source.rate is not None):
        raise ValueError(f"{path}: videos end in {' or '.join(CODECS)}")
    return PictureSink
