from collections import Counter
from pathlib import Path

import pytest

from tidegate.devstack.replay import rows
from tidegate.devstack.replay.rows import InputError, Layout

LAYOUT = Layout("permit", "case", "activity", "task")
WITHOUT_IDS = Layout("permit", "case", "activity")

FILE = """case,activity,task,resource
case-1,Confirmation of receipt,task-1,Resource 7
case-2,T02 Check confirmation,task-2,"Resource 9, evening"
case-1,T02 Check confirmation,task-3,Ünal
"""


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(FILE, encoding="utf-8")
    return path


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "other.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ids(path: Path, layout: Layout) -> list[str]:
    return [command.command_id for command in rows.read(path, layout)]


def test_each_row_is_a_command_in_the_order_of_the_file(csv_file: Path) -> None:
    commands = list(rows.read(csv_file, LAYOUT))
    assert [(c.aggregate_id, c.command_type) for c in commands] == [
        ("case-1", "Confirmation-of-receipt"),
        ("case-2", "T02-Check-confirmation"),
        ("case-1", "T02-Check-confirmation"),
    ]


def test_the_payload_has_the_other_columns_and_the_type_as_it_was_written(csv_file: Path) -> None:
    second = list(rows.read(csv_file, LAYOUT))[1]
    assert second.body() == {
        "command_id": second.command_id,
        "command_type": "T02-Check-confirmation",
        "payload": {"activity": "T02 Check confirmation", "resource": "Resource 9, evening"},
    }


@pytest.mark.parametrize("layout", [LAYOUT, WITHOUT_IDS])
def test_ids_depend_on_what_the_file_says_and_not_on_its_name(
    csv_file: Path, tmp_path: Path, layout: Layout
) -> None:
    found = ids(csv_file, layout)
    assert len(set(found)) == 3
    assert ids(write(tmp_path, FILE), layout) == found


def test_ids_differ_between_kinds_of_aggregates(csv_file: Path) -> None:
    other = Layout("order", "case", "activity", "task")
    assert not {*ids(csv_file, LAYOUT)} & {*ids(csv_file, other)}


def test_with_an_id_column_the_place_of_a_row_does_not_matter(tmp_path: Path) -> None:
    header, first, second, *rest = FILE.splitlines(keepends=True)
    moved = write(tmp_path, "".join([header, second, first, *rest]))
    first_id, second_id, third_id = ids(moved, LAYOUT)
    assert ids(write(tmp_path, FILE), LAYOUT) == [second_id, first_id, third_id]


def test_without_an_id_column_equal_rows_are_commands_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "case,activity\n1,stamp\n1,stamp\n")
    assert len(set(ids(path, WITHOUT_IDS))) == 2
    assert rows.survey(path, WITHOUT_IDS).counts == {"1": Counter(stamp=2)}


def test_without_an_id_column_row_one_of_another_file_is_another_command(tmp_path: Path) -> None:
    (first,) = ids(write(tmp_path, "case,activity,by\n1,stamp,ann\n"), WITHOUT_IDS)
    (other,) = ids(write(tmp_path, "case,activity,by\n1,stamp,bob\n"), WITHOUT_IDS)
    assert first != other


def test_the_survey_counts_rows_and_distinct_commands(tmp_path: Path) -> None:
    path = write(tmp_path, "case,activity,task\n1,stamp,a\n1,stamp,a\n1,stamp,b\n2,stamp,a\n")
    survey = rows.survey(path, LAYOUT)
    assert survey.rows == 4
    assert survey.counts == {"1": Counter(stamp=2), "2": Counter(stamp=1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("order.place", "order.place"),
        ("T07-1 Draft", "T07-1-Draft"),
        ("Prüfung (neu)", "Prufung-neu"),
        ("-- x --", "x"),
        ("_private", "private"),
    ],
)
def test_a_type_is_made_of_the_letters_that_a_command_type_has(
    tmp_path: Path, text: str, expected: str
) -> None:
    (command,) = rows.read(write(tmp_path, f"case,activity\n1,{text}\n"), WITHOUT_IDS)
    assert command.command_type == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("case-1", "case-1"), ("a/b", "a%2Fb"), ("50 %", "50%20%25"), ("é", "%C3%A9")],
)
def test_an_id_that_cannot_stand_in_a_path_is_escaped(
    tmp_path: Path, text: str, expected: str
) -> None:
    (command,) = rows.read(write(tmp_path, f"case,activity\n{text},stamp\n"), WITHOUT_IDS)
    assert command.aggregate_id == expected


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfcase,activity,task\r\n\r\n1,stamp,a\r\n\r\n")
    assert rows.survey(path, LAYOUT).rows == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("case,activity,task\n", "has no rows"),
        ("case,activity\n1,stamp\n", "has no column 'task'; it has case, activity"),
        ("case,case,activity,task\n", "has the column 'case' twice"),
        ("case,activity,task\n1,stamp\n", "line 2: 2 values for 3 columns"),
        ("case,activity,task\n1,stamp,a\n1,stamp,b,c\n", "line 3: 4 values for 3 columns"),
        ("case,activity,task\n,stamp,a\n", "line 2: '' is empty or too long"),
        (f"case,activity,task\n{'x' * 257},stamp,a\n", "line 2: 'xxx"),
        ("case,activity,task\n1,,a\n", "line 2: '' cannot be turned into a command type"),
        ("case,activity,task\n1,受付,a\n", "line 2: '受付' cannot be turned into"),
        ("case,activity,task\n1,stamp,\n", "line 2: task is empty"),
        ('case,activity,task\n1,"stamp"x,a\n', "is not CSV: line 2"),
        ('case,activity,task\n1,"stamp,a\n', "is not CSV"),
        (b"case,activity,task\n1,stamp,\xff\n", "is not UTF-8"),
        (b"\x00\x01\x02\x03", "has no column"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    with pytest.raises(InputError) as caught:
        rows.survey(write(tmp_path, content), LAYOUT)
    message = str(caught.value)
    assert told in message
    assert str(tmp_path / "other.csv") in message
    assert "\n" not in message


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        rows.survey(tmp_path / "missing.csv", LAYOUT)
    with pytest.raises(InputError, match="Is a directory"):
        rows.survey(tmp_path, LAYOUT)


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 129])
def test_an_impossible_aggregate_type_is_refused_before_anything_is_read(
    csv_file: Path, name: str
) -> None:
    with pytest.raises(InputError, match="cannot be an aggregate type"):
        rows.survey(csv_file, Layout(name, "case", "activity"))
