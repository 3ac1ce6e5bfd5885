import multiprocessing
import os
import signal
import threading

import pytest

from centernet_d2.utils.signals import Stopped, defer_signals, end_signals


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


def test_signal_during_a_fork_is_raised_at_the_next_check():
    """Receive a signal in a callback of a fork, where Python would ignore an exception."""
    active = [True]

    def receive():
        if active:
            active.clear()
            signal.raise_signal(signal.SIGTERM)

    os.register_at_fork(after_in_parent=receive)
    process = multiprocessing.get_context("fork").Process(target=int)

    def work():
        with signals.raise_immediately():
            process.start()
            process.join()
            assert signals.number == signal.SIGTERM
            signals.check()
            pytest.fail("the work continued")

    with defer_signals(signal.SIGTERM) as signals, pytest.raises(Stopped):
        work()
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ignored_exception_is_raised_at_the_end():
    class Callback:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def work():
        with signals.raise_immediately():
            Callback()
            done.append(1)

    done = []
    with defer_signals(signal.SIGTERM) as signals, pytest.raises(Stopped):
        work()
    assert done == [1]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_hangup_ends_a_program_unless_it_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert end_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert end_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)
