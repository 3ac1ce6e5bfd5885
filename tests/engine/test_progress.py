import io
import sys

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.utils.data import DataLoader

from centernet_d2.engine import progress
from centernet_d2.engine.progress import ProgressWriter, TrackedLoader, training_text

LOSSES = {"total_loss": 2.5, "heatmap": 1.5, "size": 0.75}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def text(width, **changes):
    options = {"epochs": (3.14, 12.5), "speed": 142.2, "seconds_left": 754, "memory": 2.13, **changes}
    return training_text(1240, 5000, LOSSES, width, **options)


def test_text_contains_what_fits():
    full = "1240/5000  epoch 3.1/12.5  loss 2.5 (heatmap 1.5, size 0.75)  142 images/s  ETA 12:34  2.1 GB"
    assert text(100) == full
    assert text(85) == full.replace(", size 0.75", "")
    assert text(66) == full.replace(" (heatmap 1.5, size 0.75)", "").replace("  2.1 GB", "")
    assert len(text(30)) == 30
    assert text(100, epochs=(None, None), speed=None, seconds_left=None, memory=0) == (
        "1240/5000  loss 2.5 (heatmap 1.5, size 0.75)"
    )


def run(iterations, writer, monkeypatch, seconds=1.0):
    """Write in each of some iterations, which take the given time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with EventStorage(0) as storage:
        for _ in range(iterations):
            now[0] += seconds
            storage.put_scalars(total_loss=3.0, loss_a=1.0, loss_b=2.0, time=seconds)
            writer.write()
            storage.step()


def test_one_line_is_updated_on_a_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "__stdout__", stream)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    writer = ProgressWriter(4, 8, 16)
    run(4, writer, monkeypatch)
    assert "\n" not in stream.getvalue()
    assert "50%|#####     | 2/4  epoch 1.0/2.0  loss 3 (a 1, b 2)  8 images/s  ETA 00:02" in stream.getvalue()
    writer.pause()
    assert stream.getvalue().endswith("\r"), "the line is cleared"
    size = len(stream.getvalue())
    writer.close()
    assert len(stream.getvalue()) == size


def test_lines_are_printed_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    run(70, ProgressWriter(70, 2), monkeypatch, seconds=0.3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["20/70", "60/70", "70/70"], "at most one in 10 seconds, and the last"
    assert lines[-1].startswith("70/70  loss 3 (a 1, b 2)  6.67 images/s  ETA 00:00")


@pytest.mark.parametrize("is_main", [True, False])
def test_tracked_loader_yields_all_batches(is_main):
    loader = TrackedLoader(DataLoader(range(5)), "evaluating", is_main=is_main)
    assert len(loader) == len(list(loader)) == 5
    assert loader.batch_size == 1
