"""Where results go: a folder of pictures, a video, a JSON file. All are valid files whenever they are closed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

__all__ = ["JsonSink", "PictureSink", "Sink", "VideoSink", "refuse_existing"]

# By suffix: a codec that OpenCV's own build has.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


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
        # OpenCV's own writing does not know every letter of a path on every system.
        (self.folder / title).write_bytes(cv2.imencode(".png", picture)[1].tobytes())


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
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
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
