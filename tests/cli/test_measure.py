import time

import pytest
import torch

from centernet_d2.cli.measure import alternate, clock_of, model_cost, ratios, summarize, table


def test_ratios_are_computed_within_rounds():
    times = {"old": [1.0, 10.0, 3.0], "new": [0.5, 2.0, 1.0]}
    assert ratios(times) == {"old": 1, "new": 3}
    assert ratios(times, "new")["old"] == pytest.approx(1 / 3)
    assert summarize(times)["old"] == {"median": 3, "min": 1, "max": 10, "ratio": 1}
    assert "| new |" in table(times).replace("   ", " ").replace("  ", " ")


def test_alternate_interleaves_variants_after_a_warm_up():
    calls = []
    times = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == list("ababab")
    assert [len(own) for own in times.values()] == [2, 2]
    with pytest.raises(ValueError, match="--rounds is 0, but must be at least 1"):
        alternate({}, 0)


def test_clock_ignores_other_processes_only_on_one_cpu_thread(monkeypatch):
    for threads, device, clock in ((1, "cpu", time.process_time), (2, "cpu", time.perf_counter)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert clock_of(device) is clock
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert clock_of("cuda") is time.perf_counter


def test_alternate_uses_the_clock():
    ticks = iter(range(100))
    assert alternate({"a": lambda: None}, 2, lambda: float(next(ticks))) == {"a": [1.0, 1.0]}


def test_multiply_adds_are_proportional_to_the_image_area():
    small, large = (model_cost("COCO-Detection/centernet_R_18_1x.yaml", (64, width)) for width in (64, 128))
    assert small.trainable == small.stored == large.stored == 14_437_349
    assert large.multiply_adds == pytest.approx(2 * small.multiply_adds, rel=1e-3)
