import logging
import warnings

import pytest

from p2ch13.util.logconf import set_up_logging


@pytest.fixture(autouse=True)
def own_warnings():
    with warnings.catch_warnings():
        yield


@pytest.mark.parametrize("to_stderr", [False, True])
def test_log_lines_go_to_stdout_or_stderr(capsys, to_stderr):
    set_up_logging(to_stderr=to_stderr)
    logging.getLogger("p2ch13.test").info("hello")
    printed = capsys.readouterr()
    line, nothing = (printed.err, printed.out) if to_stderr else (printed.out, printed.err)
    assert line.endswith(" hello\n") and nothing == ""


def test_of_libraries_only_errors_are_said(capsys, monkeypatch):
    monkeypatch.setattr("sys.warnoptions", [])
    set_up_logging()
    logging.getLogger("some.library").warning("chatter")
    warnings.warn("will be removed", FutureWarning, stacklevel=1)
    logging.getLogger("some.library").error("lost")
    printed = capsys.readouterr()
    assert (printed.out.endswith(" lost\n"), len(printed.out.splitlines()), printed.err) == (True, 1, "")
