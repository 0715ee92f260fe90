"""The program `p2ch13`: commands by name."""

import hashlib
import sys
from importlib import import_module

import pytest

from p2ch13.__main__ import find_module, main
from p2ch13.commands import COMMANDS, spell
from p2ch13.config import COMMANDS as OPTIONS
from p2ch13.weights import WEIGHTS
from tests.support.checks import refused
from tests.support.commands import run_python


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_prints_its_help(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/p2ch13", name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: p2ch13 {name} [-h]")


def test_every_module_with_options_is_a_command():
    assert {command.module for command in COMMANDS.values()} == {*OPTIONS, "phantom"}
    for name in COMMANDS:
        assert callable(import_module(find_module(name)).main)


@pytest.mark.parametrize(
    ("started_as", "expected"),
    [
        ("/home/me/.venv/bin/p2ch13", "p2ch13 import-dicom 'a b'"),
        ("C:/Scripts/p2ch13.exe", "p2ch13 import-dicom 'a b'"),
        ("/checkout/p2ch13/import_dicom.py", "python -m p2ch13.import_dicom 'a b'"),
        ("/checkout/p2ch13/__main__.py", "python -m p2ch13.import_dicom 'a b'"),
        ("precache.py", "python -m p2ch13.import_dicom 'a b'"),
        ("", "python -m p2ch13.import_dicom 'a b'"),
    ],
)
def test_a_command_is_spelled_as_the_process_was_started(monkeypatch, started_as, expected):
    monkeypatch.setattr(sys, "argv", [started_as])
    assert spell("import-dicom", "a b") == expected


@pytest.mark.parametrize(
    ("name", "suggestion"), [("predcit", "predict"), ("Train", "train"), ("import_dicom", "import-dicom")]
)
def test_a_mistyped_command_names_the_one_that_was_probably_meant(name, suggestion):
    with refused() as error:
        main([name, "--checkpoint", "x"])
    assert error.value.message.endswith(f"did you mean {suggestion}?")


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in COMMANDS)


def test_the_version_names_the_network(capsys):
    main(["--version"])
    assert capsys.readouterr().out.split()[-1] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def test_as_a_process(tmp_path):
    assert run_python("-m", "p2ch13", "--help").stdout.startswith("usage: p2ch13 COMMAND")
