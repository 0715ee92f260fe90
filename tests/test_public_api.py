import ast
import inspect
import sys

import pytest

import p2ch13
from tests.support.commands import REPOSITORY, run_python

LAZY = [name for name in p2ch13.__all__ if name not in ("__version__", "predict")]


@pytest.mark.parametrize("name", LAZY)
def test_names(name):
    """A name is the object that its module defines, and a line of the docstring."""
    value = getattr(p2ch13, name)
    assert value is getattr(sys.modules[value.__module__], name)
    assert value.__module__.startswith("p2ch13.")
    assert inspect.getdoc(value)
    assert name in p2ch13.__doc__


def test_predict_is_the_command_and_a_function():
    """Its own tests: `tests/detection/test_prediction.py`."""
    assert callable(p2ch13.predict)
    assert p2ch13.predict is sys.modules["p2ch13.predict"]
    assert inspect.getdoc(type(p2ch13.predict).__call__)
    assert "\n    predict " in p2ch13.__doc__


def test_dir():
    assert set(p2ch13.__all__) <= set(dir(p2ch13))
    assert not hasattr(p2ch13, "no_such_name")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import p2ch13", {"torch", "numpy", "SimpleITK", "scipy"}),
        ("from p2ch13 import InputError", {"torch", "SimpleITK"}),
        ("import p2ch13.detection.pipeline, p2ch13.evaluation.pipeline", {"tensorboard", "matplotlib"}),
    ],
)
def test_what_an_import_does_not_load(code, unwanted):
    code += f"; import sys; sys.exit(' '.join({unwanted} & set(sys.modules)) or 0)"
    assert run_python("-c", code).stderr == ""


def test_the_version_is_that_of_the_metadata():
    assert f'\nversion = "{p2ch13.__version__}"\n' in (REPOSITORY / "pyproject.toml").read_text()


def test_type_checkers_see_the_same_names():
    """An import as an alias of the same name is an export (PEP 484)."""
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(p2ch13))) if isinstance(node, ast.ImportFrom)]
    exported = {(alias.asname, node.module) for node in imports for alias in node.names if alias.name == alias.asname}
    assert exported == set(p2ch13._MODULE_OF.items())
