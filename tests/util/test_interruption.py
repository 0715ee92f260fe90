import os
import signal
import threading

from p2ch13.util.interruption import Interruption, signals_deferred
from tests.support.commands import run_python


def test_a_thread_other_than_the_main_one():
    done = []

    def work():
        with signals_deferred():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal; from p2ch13.util.interruption import Interruption\n"
        "with Interruption('Stopping.') as interruption:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print(interruption.signal_number, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    )
    done = run_python("-c", code, status=None)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "2\n", "\nStopping.\n")
    handler = signal.getsignal(signal.SIGINT)
    with Interruption():
        pass
    assert signal.getsignal(signal.SIGINT) == handler


def test_an_ignored_signal_stays_ignored():
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.signal_number is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
