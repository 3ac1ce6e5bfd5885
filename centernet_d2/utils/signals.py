"""Signals that ask a program to end, noted instead of raised somewhere within its work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Signals", "Stopped", "signals_noted"]


class Stopped(KeyboardInterrupt):
    """A program ends in good order because a signal asked for it; says what became of its work."""

    def __init__(self, number: int, message: str = "stopped") -> None:
        """
        Args:
            number: of the signal.
            message: one sentence.
        """
        super().__init__(message)
        self.number = number
        # What shells expect of a process that a signal ended.
        self.code = 128 + number


class Signals:
    """The signals that came in: true once there is one. A Ctrl-C behind another signal raises KeyboardInterrupt."""

    def __init__(self, tell: Callable[[int], object] | None = None) -> None:
        """
        Args:
            tell: is called with the number of every signal that is noted.
        """
        # Of the first signal; 0 before.
        self.number = 0
        self._tell = tell
        self._at_once = False

    def __bool__(self) -> bool:
        return self.number != 0

    def note(self, number: int, frame: object) -> None:
        """The handler of the signals."""
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        if self._tell is not None:
            self._tell(number)
        if self._at_once:
            raise Stopped(self.number)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """For work that may end anywhere: in this context a signal raises :class:`Stopped`, also one from before."""
        if self:
            raise Stopped(self.number)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


@contextmanager
def signals_noted(*numbers: int, tell: Callable[[int], object] | None = None) -> Iterator[Signals]:
    """Note signals in this context; see :class:`Signals`. Only the main thread can: in others there never is one."""
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
