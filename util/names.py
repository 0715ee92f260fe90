"""Classes by name: a registered short name, or `package.module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from p2ch13.util.errors import InputError


def find_class(name: str, registered: Mapping[str, str], option: str) -> Any:
    """Import the class that a name stands for. Importing runs the module's code: `name` must come from the user.

    Args: registered: short names and the `package.module:Class` of each; option: the one that names the class.
    Raises: InputError, about the option, if there is no such module or class. What the module raises goes through.
    """
    module_name, _, class_name = registered.get(name, name).partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise InputError(f"{name} is neither {' nor '.join(registered)} nor package.module:Class", option=option)
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):  # a module that the named one imports
            raise
        raise InputError(f"no module {error.name}; start Python where it can be imported", option=option) from None
    except AttributeError:
        raise InputError(f"{module_name} has no {class_name}", option=option) from None
