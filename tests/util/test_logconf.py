import logging

from p2ch13.util.logconf import set_up_logging


def test_log_lines_go_to_stdout(capsys):
    set_up_logging()
    logging.getLogger("p2ch13.test").info("hello")
    assert capsys.readouterr().out.endswith(" hello\n")
