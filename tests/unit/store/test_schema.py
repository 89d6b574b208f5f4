from pathlib import Path

import pytest

from tidegate.store.schema import SchemaError, load_migrations, migrations_folder

APPLY = "async def apply(context): ...\n"


def folder_with(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / name.removeprefix("m").replace("_py", ".py")).write_text(text)
    return tmp_path


def test_the_migrations_of_the_program_load() -> None:
    migrations = load_migrations(migrations_folder())
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    assert migrations[0].name == "create_streams"


def test_migrations_load_in_order_and_other_files_are_left_alone(tmp_path: Path) -> None:
    folder_with(tmp_path, m0002_second_py=APPLY, m0001_first_py=APPLY, README="text")
    (tmp_path / "helper.py").write_text("raise RuntimeError")
    loaded = load_migrations(tmp_path)
    assert [(each.number, each.name) for each in loaded] == [(1, "first"), (2, "second")]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["m0002_second_py"],
        ["m0000_zeroth_py", "m0001_first_py"],
        ["m0001_first_py", "m0003_third_py"],
        ["m0001_first_py", "m0001_other_py"],
    ],
)
def test_a_gap_or_a_double_is_refused(tmp_path: Path, names: list[str]) -> None:
    folder_with(tmp_path, **dict.fromkeys(names, APPLY))
    with pytest.raises(SchemaError, match="not numbered 1, 2, 3"):
        load_migrations(tmp_path)


@pytest.mark.parametrize("name", ["1_first.py", "0001-first.py", "0001_First.py", "00001_a.py"])
def test_a_file_named_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(APPLY)
    with pytest.raises(SchemaError, match=f"{name} is not named like a migration"):
        load_migrations(tmp_path)


@pytest.mark.parametrize("text", ["", "apply = 1\n"])
def test_a_migration_without_apply_is_refused(tmp_path: Path, text: str) -> None:
    folder_with(tmp_path, m0001_first_py=text)
    with pytest.raises(SchemaError, match=r"0001_first\.py has no function `apply`"):
        load_migrations(tmp_path)
