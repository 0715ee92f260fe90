import json
import math
from pathlib import Path

import pytest

from p2ch13.util.outcome import Outcome


@pytest.mark.parametrize("status", [0, 1])
def test_lines_for_people(capsys, status):
    assert Outcome(["found 2", "in a"], {"found": 2}, status).finish() == status
    assert capsys.readouterr().out == "found 2\nin a\n"


@pytest.mark.parametrize("status", [0, 1])
def test_one_object_for_programs(capsys, status):
    values = {"file": Path("a b"), "scores": (0.5, math.nan), "none": None}
    assert Outcome(["found 2"], values, status).finish(as_json=True) == status
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"status": status, "file": "a b", "scores": [0.5, None], "none": None}


def test_a_file_name_of_other_bytes(capsys):
    Outcome([], {"file": Path("\udce9.nii")}).finish(as_json=True)
    assert json.loads(capsys.readouterr().out)["file"] == "é.nii"
