"""Deferred handling of SIGINT, SIGTERM and SIGHUP."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Signals", "Stopped", "defer_signals", "end_signals"]


class Stopped(KeyboardInterrupt):
    """Exception that ends a program after a signal, once its state is consistent."""

    def __init__(self, number: int, message: str = "interrupted") -> None:
        """
        Args:
            number: signal number.
            message: state of the work, for the user.
        """
        super().__init__(message)
        self.number = number
        # Conventional exit code after a signal.
        self.code = 128 + number


class Signals:
    """Deferred signals; true if a signal was received.

    A Ctrl-C after another signal raises KeyboardInterrupt.
    """

    def __init__(self, callback: Callable[[int], object] | None = None) -> None:
        """
        Args:
            callback: called with the number of every deferred signal.
        """
        # Number of the first signal; 0 if none was received.
        self.number = 0
        self._callback = callback
        self._immediate = False

    def __bool__(self) -> bool:
        return self.number != 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: store its number."""
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        if self._callback is not None:
            self._callback(number)
        if self._immediate and not _is_in_multiprocessing(frame):
            raise Stopped(self.number)

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal was received."""
        if self:
            raise Stopped(self.number)

    @contextmanager
    def raise_immediately(self) -> Iterator[None]:
        """Raise :class:`Stopped` at the first signal, or now if one was received.

        Python ignores exceptions in callbacks, for example of a fork or the garbage collector. Therefore, the signal is
        checked again at the end; longer work calls :meth:`check`.
        """
        self.check()
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False
        self.check()


def _is_in_multiprocessing(frame: FrameType | None) -> bool:
    """Return True while a process is started or a queue is used: an exception would be ignored or leave a lock held."""
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("multiprocessing."):
        frame = frame.f_back
    return frame is not None


def end_signals() -> tuple[int, ...]:
    """Return SIGINT, SIGTERM, and SIGHUP unless nohup ignores it."""
    always = (signal.SIGINT, signal.SIGTERM)
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # Windows, or nohup.
        return always
    return (*always, signal.SIGHUP)


@contextmanager
def defer_signals(*numbers: int, callback: Callable[[int], object] | None = None) -> Iterator[Signals]:
    """Defer signals in this context, see :class:`Signals`.

    Only the main thread receives signals.
    """
    signals = Signals(callback)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
