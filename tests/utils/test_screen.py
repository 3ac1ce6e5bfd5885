import io
import logging
import sys

import pytest

from centernet_d2.utils import screen
from centernet_d2.utils.screen import ScreenHandler, columns, join_fitting, progress_bar, track, wrap


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard output of a terminal with 80 columns."""
    stream = Terminal()
    monkeypatch.setattr(sys, "__stdout__", stream)
    monkeypatch.setenv("COLUMNS", "80")
    return stream


def record(level, message):
    return logging.LogRecord("any", level, "file", 1, message, (), None)


def test_width_of_terminals_and_pipes(terminal, monkeypatch):
    assert columns() == 79
    monkeypatch.setenv("COLUMNS", "300")
    assert columns() == 100
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    assert columns() == 100


def test_wrap_keeps_paths_and_line_breaks():
    path = "/folder-" * 20
    assert wrap(f"see {path} for more\nend", 30) == f"see\n    {path}\n    for more\nend"


def test_messages_have_no_times_and_fit(monkeypatch):
    stream = io.StringIO()
    handler = ScreenHandler(stream)
    handler.emit(record(logging.INFO, "word " * 40))
    handler.emit(record(logging.WARNING, "careful"))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "warning: careful"
    assert "\x1b" not in stream.getvalue()


def test_messages_are_printed_above_the_progress_line(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    with progress_bar(10, "working", 2):
        ScreenHandler(terminal).emit(record(logging.INFO, "message"))
    text = terminal.getvalue()
    assert "20%|##        | working" in text
    assert "\rmessage\n" in text
    assert text.rindex("working") > text.index("message"), "the line is drawn again"
    assert text.endswith("\r"), "the line is cleared at the end"


def test_track_updates_one_line_on_a_terminal(terminal, monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(times))
    assert list(track("abc", "evaluating", 3)) == ["a", "b", "c"]
    assert "67%|######6   | evaluating  2/3 images  1 images/s  ETA 00:01" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()
    assert max(map(len, terminal.getvalue().split("\r"))) < 80


def test_track_logs_every_ten_seconds_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    times = iter(range(0, 400, 4))
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(times))
    with caplog.at_level(logging.INFO):
        assert len(list(track(range(7), "evaluating", 7))) == 7
    assert [r.getMessage()[:15] for r in caplog.records] == ["evaluating  3/7", "evaluating  6/7"]


def test_join_fitting():
    assert join_fitting(["first part", "b", "c"], 13) == "first part  b"
    assert join_fitting(["first part", "b"], 3) == "first part"
