import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate.devstack import ready_file
from tidegate.devstack.ready_file import (
    Admin,
    Mail,
    Nats,
    Node,
    ReadyFile,
    ReadyFileError,
    Replica,
    Running,
)

RUNNING = Running(
    replicas=(
        Replica("http://127.0.0.1:8080", None, 11),
        Replica("http://127.0.0.1:8081", None, 12),
    ),
    nats=Nats(("nats://gateway:secret@127.0.0.1:4222",), (13,)),
    mail=Mail("http://127.0.0.1:8090"),
    nodes=(Node("aggregate", "grpc://127.0.0.1:8092", 14),),
    admin=Admin("admin@example.org", "marked-secret"),
    tenants=("acme", "globex"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ready.json"


def test_it_has_the_form_that_scripts_rely_on(path: Path) -> None:
    ReadyFile(path).write(RUNNING)
    assert json.loads(path.read_text()) == {
        "replicas": [
            {"http": "http://127.0.0.1:8080", "grpc": None, "pid": 11},
            {"http": "http://127.0.0.1:8081", "grpc": None, "pid": 12},
        ],
        "nats": {
            "url": "nats://gateway:secret@127.0.0.1:4222",
            "urls": ["nats://gateway:secret@127.0.0.1:4222"],
            "pids": [13],
        },
        "mail": {"http": "http://127.0.0.1:8090"},
        "nodes": [{"kind": "aggregate", "address": "grpc://127.0.0.1:8092", "pid": 14}],
        "admin": {"email": "admin@example.org", "password": "marked-secret"},
        "tenants": ["acme", "globex"],
    }


def test_what_was_written_is_read_back(path: Path) -> None:
    ReadyFile(path).write(RUNNING)
    assert ready_file.read(path) == RUNNING


def test_only_its_owner_can_read_it_even_where_another_file_was(path: Path) -> None:
    path.write_text("public")
    path.chmod(0o644)
    file = ReadyFile(path)
    for running in (RUNNING, replace(RUNNING, tenants=())):
        file.write(running)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["ready.json"]


def test_secrets_do_not_show_in_its_representation() -> None:
    assert "secret" not in repr(RUNNING)


def test_it_is_gone_when_the_stack_stops(path: Path) -> None:
    file = ReadyFile(path)
    file.write(RUNNING)
    file.remove()
    assert not path.exists()
    file.remove()


def test_the_file_of_another_stack_is_left_alone(path: Path) -> None:
    first, second = ReadyFile(path), ReadyFile(path)
    first.write(RUNNING)
    second.write(replace(RUNNING, tenants=("acme",)))
    first.remove()
    assert ready_file.read(path).tenants == ("acme",)


def test_a_file_that_was_never_written_removes_nothing(path: Path) -> None:
    path.write_text("mine")
    ReadyFile(path).remove()
    assert path.read_text() == "mine"


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ReadyFileError, match=r"missing/ready\.json cannot be written: No such file"
    ):
        ReadyFile(tmp_path / "missing" / "ready.json").write(RUNNING)


def test_a_missing_file_says_what_to_do(path: Path) -> None:
    with pytest.raises(ReadyFileError, match="start `tidegate dev`"):
        ready_file.read(path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"replicas": [{"http": 1}]}', '{"replicas": 3}']
)
def test_anything_else_is_told_to_be_no_ready_file(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ReadyFileError, match="is not a ready file"):
        ready_file.read(path)
