import signal
import threading

import pytest

from centernet_d2.utils.signals import Stopped, defer_signals


def test_a_second_ctrl_c_stops_at_once():
    with defer_signals(signal.SIGINT) as signals:
        assert not signals
        signal.raise_signal(signal.SIGINT)
        assert signals
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_first_signal_counts_and_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    told = []
    with defer_signals(signal.SIGINT, signal.SIGTERM, callback=told.append) as signals:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert (signals.number, told) == (signal.SIGTERM, [signal.SIGTERM] * 2)
        with pytest.raises(KeyboardInterrupt) as error:
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(error.value, Stopped)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_work_that_may_end_anywhere_does(number, code, early):
    def work():
        with signals.raise_immediately():
            assert not early
            signal.raise_signal(number)
            pytest.fail("it went on")

    with defer_signals(signal.SIGINT, signal.SIGTERM) as signals:
        if early:
            signal.raise_signal(number)
        with pytest.raises(Stopped) as stopped:
            work()
    assert stopped.value.code == code


def test_another_thread_has_no_signals_to_note():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with defer_signals(signal.SIGINT) as signals:
            seen.append((bool(signals), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
