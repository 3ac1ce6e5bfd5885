"""Deferred handling of SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Signals", "Stopped", "signals_noted"]


class Stopped(KeyboardInterrupt):
    """Orderly end of a program after a signal, with a message about the state of its work."""

    def __init__(self, number: int, message: str = "stopped") -> None:
        """
        Args:
            number: number of the signal.
            message: one sentence.
        """
        super().__init__(message)
        self.number = number
        # Exit code that shells expect of a process ended by a signal.
        self.code = 128 + number


class Signals:
    """Signals received so far; true if there are any. A Ctrl-C after another signal raises KeyboardInterrupt."""

    def __init__(self, tell: Callable[[int], object] | None = None) -> None:
        """
        Args:
            tell: called with the number of every deferred signal.
        """
        # Number of the first signal; 0 before.
        self.number = 0
        self._tell = tell
        self._at_once = False

    def __bool__(self) -> bool:
        return self.number != 0

    def note(self, number: int, frame: object) -> None:
        """Handle a signal: remember its number."""
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        if self._tell is not None:
            self._tell(number)
        if self._at_once:
            raise Stopped(self.number)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise :class:`Stopped` for signals in this context, and for an earlier one: the work may end anywhere."""
        if self:
            raise Stopped(self.number)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


@contextmanager
def signals_noted(*numbers: int, tell: Callable[[int], object] | None = None) -> Iterator[Signals]:
    """Defer signals in this context, see :class:`Signals`. Other threads than the main thread receive no signals."""
    signals = Signals(tell)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
