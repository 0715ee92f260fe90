import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import p2ch13

LAZY = [name for name in p2ch13.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", LAZY)
def test_names(name):
    """A name is the object that its module defines, and a line of the docstring."""
    value = getattr(p2ch13, name)
    assert value is getattr(sys.modules[value.__module__], name)
    assert value.__module__.startswith("p2ch13.")
    assert inspect.getdoc(value)
    assert name in p2ch13.__doc__


def test_dir():
    assert set(p2ch13.__all__) <= set(dir(p2ch13))


def test_a_wrong_name():
    with pytest.raises(AttributeError):
        p2ch13.no_such_name  # noqa: B018
    assert not hasattr(p2ch13, "no_such_name")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import p2ch13", {"torch", "numpy", "SimpleITK", "scipy"}),
        ("from p2ch13 import InputError", {"torch", "SimpleITK"}),
        ("import p2ch13.detection.pipeline, p2ch13.evaluation.pipeline", {"tensorboard", "torch.utils.tensorboard"}),
    ],
)
def test_what_an_import_does_not_load(code, unwanted):
    code += f"; import sys; sys.exit(' '.join({unwanted} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")


def test_util_beside_the_package(tmp_path):
    """As in a checkout without symbolic links, where p2ch13/util is a text file."""
    root = Path(__file__).parents[1]
    (tmp_path / "p2ch13").mkdir()
    (tmp_path / "p2ch13/__init__.py").write_bytes((root / "p2ch13/__init__.py").read_bytes())
    (tmp_path / "p2ch13/util").write_text("../util")
    (tmp_path / "util").symlink_to(root / "util")
    code = "import p2ch13; print(p2ch13.InputError.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "p2ch13.util.errors", done.stderr
