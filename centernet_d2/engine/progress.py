"""Progress of training and evaluation on the screen."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..utils.screen import BAR, PERIOD, columns, is_terminal, progress_bar, track

__all__ = ["ProgressWriter", "TrackedLoader", "training_text"]

# Number of iterations whose median loss and speed are shown.
WINDOW = 20
# Seconds between updates of the line on a terminal.
REFRESH = 0.2


class ProgressWriter(EventWriter):
    """EventWriter that shows the progress of training in one line.

    On a terminal, the line is updated; otherwise, a line is printed at most every 10 seconds. Register it with a period
    of one iteration. Detectron2's CommonMetricPrinter writes its line to log.txt.
    """

    def __init__(self, max_iter: int, batch: int, epoch_length: float | None = None) -> None:
        """
        Args:
            max_iter: number of iterations of the training.
            batch: number of images per iteration, of all processes.
            epoch_length: number of images per epoch, if known.
        """
        self.max_iter = max_iter
        self.batch = batch
        self.epoch_length = epoch_length
        self._bar: tqdm | None = None
        self._first: tuple[int, float] | None = None
        self._shown = float("-inf")

    def epoch(self, iterations: int) -> float | None:
        """Return the number of epochs in a number of iterations, if known."""
        return iterations * self.batch / self.epoch_length if self.epoch_length else None

    def write(self) -> None:
        storage, now = get_event_storage(), time.monotonic()
        done = storage.iter + 1
        if self._first is None:
            self._first = (done, now)
        terminal = is_terminal()
        is_due = now - self._shown >= (REFRESH if terminal else PERIOD) and (terminal or done % WINDOW == 0)
        if done > self.max_iter or not (is_due or done == self.max_iter):
            return
        self._shown = now
        text = self._text(storage, done, columns() - (BAR if terminal else 0))
        if not terminal:
            print(text, flush=True)
            return
        if self._bar is None:
            self._bar = progress_bar(self.max_iter, text, done)
        self._bar.n = done
        self._bar.set_description_str(text)

    def _text(self, storage: EventStorage, done: int, width: int) -> str:
        histories = storage.histories()
        losses = {
            name.replace("loss_", ""): history.median(WINDOW) for name, history in histories.items() if "loss" in name
        }
        speed = self.batch / histories["time"].median(WINDOW) if "time" in histories else None
        first, start = self._first or (done, time.monotonic())
        # Evaluations are part of the average, and so of the remaining time.
        rate = (time.monotonic() - start) / (done - first) if done > first else None
        return training_text(
            done,
            self.max_iter,
            losses,
            width,
            epochs=(self.epoch(done), self.epoch(self.max_iter)),
            speed=speed,
            seconds_left=None if rate is None else rate * (self.max_iter - done),
            memory=_peak_memory(),
        )

    def pause(self) -> None:
        """Remove the line until the next iteration."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    close = pause


def _peak_memory() -> float:
    """Return the peak memory in GiB: of the GPU, if available, or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # In KiB on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def training_text(
    done: int,
    total: int,
    losses: Mapping[str, float],
    width: int,
    *,
    epochs: tuple[float | None, float | None] = (None, None),
    speed: float | None = None,
    seconds_left: float | None = None,
    memory: float = 0.0,
) -> str:
    """Return the text of the progress line; parts that do not fit are skipped.

    Args:
        done, total: number of iterations.
        losses: name -> value; the first one is the total loss.
        width: largest length of the text.
        epochs: numbers of epochs so far and in total, if known.
        speed: images per second, if known.
        seconds_left: remaining time, if known.
        memory: peak memory in GiB.
    """
    (_, loss), *parts = losses.items() if losses else (("", float("nan")),)
    current, last = epochs
    front = [f"{done}/{total}", "" if current is None or last is None else f"epoch {current:.1f}/{last:.1f}"]
    front = [*filter(None, front), f"loss {loss:.3g}"]
    back = ["" if speed is None else f"{speed:.3g} images/s"]
    back = [*filter(None, [*back, "" if seconds_left is None else f"ETA {tqdm.format_interval(seconds_left)}"])]
    if memory and len("  ".join([*front, *back])) + 9 <= width:
        back.append(f"{memory:.1f} GB")
    details: list[str] = []
    for name, value in parts if len(parts) > 1 else ():
        longer = [*details, f"{name} {value:.3g}"]
        if len("  ".join([*front, *back])) + len(" ()" + ", ".join(longer)) > width:
            break
        details = longer
    if details:
        front[-1] += f" ({', '.join(details)})"
    return "  ".join([*front, *back])[:width]


class TrackedLoader:
    """Data loader of an evaluation that shows its progress on the screen.

    Args:
        loader: data loader; its attributes are available.
        title: start of the progress line.
        is_main: show the progress; set in one process.
    """

    def __init__(self, loader: DataLoader, title: str, *, is_main: bool = True) -> None:
        self.loader = loader
        self.title = title
        self.is_main = is_main

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return track(self.loader, self.title, len(self), "images") if self.is_main else iter(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)
