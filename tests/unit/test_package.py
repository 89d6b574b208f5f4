"""The package as a whole: its version, and the shape of its state."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import tidegate

ROOT = Path(__file__).parents[2]
# Packages whose dataclasses are state, or decisions about it.
STATE = (
    *("kernel", "store", "identity", "sessions", "authz", "routing", "flows", "gateway"),
    *("upstream", "edge", "observability"),
)
# Filled in while one request passes, and while one channel is in use: no state.
WORKING = {"tidegate.observability.context.RequestContext", "tidegate.upstream.channels._Pooled"}


def modules() -> Iterator[ModuleType]:
    for name in STATE:
        package = importlib.import_module(f"tidegate.{name}")
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def dataclasses_of(module: ModuleType) -> Iterator[type]:
    for member in vars(module).values():
        if not isinstance(member, type) or member.__module__ != module.__name__:
            continue
        if dataclasses.is_dataclass(member):
            yield member


def test_the_program_and_the_package_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tidegate.__version__ == project["version"]


def test_every_state_type_is_frozen_and_slotted() -> None:
    found = {
        f"{kind.__module__}.{kind.__qualname__}": kind
        for module in modules()
        for kind in dataclasses_of(module)
    }
    assert len(found) > 40
    assert found.keys() >= WORKING
    loose = {
        name
        for name, kind in found.items()
        if not kind.__dataclass_params__.frozen or "__slots__" not in vars(kind)  # type: ignore[attr-defined]
    }
    assert loose == WORKING
