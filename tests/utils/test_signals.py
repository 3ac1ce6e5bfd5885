import signal
import threading

import pytest

from centernet_d2.utils.signals import Stopped, defer_signals


def test_second_ctrl_c_raises():
    with defer_signals(signal.SIGINT) as signals:
        assert not signals
        signal.raise_signal(signal.SIGINT)
        assert signals
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_first_signal_is_stored_and_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    received = []
    with defer_signals(signal.SIGINT, signal.SIGTERM, callback=received.append) as signals:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert (signals.number, received) == (signal.SIGTERM, [signal.SIGTERM] * 2)
        with pytest.raises(KeyboardInterrupt) as error:
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(error.value, Stopped)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_raise_immediately(number, code, early):
    def work():
        with signals.raise_immediately():
            assert not early
            signal.raise_signal(number)
            pytest.fail("the work continued")

    with defer_signals(signal.SIGINT, signal.SIGTERM) as signals:
        if early:
            signal.raise_signal(number)
        with pytest.raises(Stopped) as stopped:
            work()
    assert stopped.value.code == code


def test_other_threads_do_not_handle_signals():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with defer_signals(signal.SIGINT) as signals:
            seen.append((bool(signals), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
