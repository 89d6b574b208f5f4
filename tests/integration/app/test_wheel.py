"""The package builds, installs and imports from its wheel where its source is not to be seen."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*arguments: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TIDEGATE_"))}
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--disable-pip-version-check", "--no-cache-dir", "--wheel-dir", folder, ROOT),
        cwd=folder,
    )
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and, of the checkout, nothing."""
    home = tmp_path_factory.mktemp("venv")
    venv.EnvBuilder(with_pip=False).create(home)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = home / "lib" / version / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    # The dependencies of this environment, but not its editable install: what a .pth file adds
    # to the path is not searched for further .pth files.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "python"


def test_the_wheel_holds_the_program_its_migrations_and_its_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    migrations = {path.name for path in (ROOT / "migrations").glob("*.py")}
    assert migrations
    assert {f"tidegate/_migrations/{name}" for name in migrations} <= names
    assert "tidegate/py.typed" in names
    assert "tidegate/wire/aggregate/gateway/v1/command_pb2.py" in names
    assert any(name.endswith("LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tidegate", wheel.name.split("-py3")[0] + ".dist-info"}


def test_the_program_runs_from_its_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(installed, "-c", "import tidegate; print(tidegate.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where
    assert str(installed.parents[1]) in where
    assert run(installed, "-m", "tidegate.cli.main", "version", cwd=tmp_path) == "0.1.0\n"


def test_every_module_imports_from_the_wheel_and_the_migrations_are_found(
    installed: Path, tmp_path: Path
) -> None:
    code = """
import importlib, pkgutil, tidegate
from tidegate.store import schema
for found in pkgutil.walk_packages(tidegate.__path__, "tidegate."):
    if "._migrations" not in found.name:
        importlib.import_module(found.name)
folder = schema.migrations_folder()
print(folder, len(schema.load_migrations(folder)))
"""
    printed = run(installed, "-W", "error", "-c", code, cwd=tmp_path).split()
    assert printed[0].endswith("site-packages/tidegate/_migrations")
    assert int(printed[1]) == len(list((ROOT / "migrations").glob("*.py")))
