"""What the pages point to is there: files, headings, tests, make targets, commands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

from tidegate.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_NODE_ID = re.compile(r"(tests/[\w/]+\.py)::(\w+(?:::\w+)?)")
_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
_MAKE = re.compile(r"(?:`|^)make ([a-z-]+)", re.MULTILINE)
_COMMAND = re.compile(r"(?:`|^\$ |/bin/)tidegate ([a-z]+)", re.MULTILINE)
_SOMEBODYS_FOLDER = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|mnt)/")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    slugs: set[str] = set()
    for heading in _HEADING.findall(text):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        slugs.add(slug)
    return slugs


def broken_links(page: Path) -> list[str]:
    broken: list[str] = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def defined_in(path: Path) -> set[str]:
    """The names of the tests in a file, those in classes as `Class::name`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


def missing_tests(text: str) -> list[str]:
    return [
        f"{path}::{name}"
        for path, name in _NODE_ID.findall(text)
        if not (ROOT / path).is_file() or name not in defined_in(ROOT / path)
    ]


def test_there_are_pages_to_look_at() -> None:
    assert {"README.md", "docs/architecture.md"} <= {named(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("link", ["gone.md", "b.md#gone", "#gone"])
def test_a_link_to_nowhere_is_found(tmp_path: Path, link: str) -> None:
    (tmp_path / "b.md").write_text("# Here\n")
    page = tmp_path / "a.md"
    page.write_text(
        f"# There is `one`\n\n[good](b.md#here), [good](#there-is-one), [bad]({link})\n"
    )
    assert broken_links(page) == [link]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    assert missing_tests(page.read_text(encoding="utf-8")) == []


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "tests/unit/docs/test_links.py"
    gone = [f"{here}::test_gone", "tests/gone.py::test_links_lead_somewhere"]
    assert missing_tests(f"{gone[0]} {gone[1]} {here}::test_links_lead_somewhere") == gone


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(_MAKE.findall(page.read_text(encoding="utf-8"))) <= targets


def test_the_readme_begins_with_the_two_commands() -> None:
    fences = re.findall(
        r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert [line.split("#")[0].strip() for line in fences[0].splitlines()] == [
        "make demo",
        "make test",
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    program = typer.main.get_command(cli)
    named_commands = set(_COMMAND.findall(page.read_text(encoding="utf-8")))
    assert named_commands <= set(program.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_speaks_of_a_folder_of_somebodys_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert _SOMEBODYS_FOLDER.findall(text) == []
    assert str(ROOT) not in text
