"""Configuration: file, environment, and errors that name the setting but never its value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tidegate import config
from tidegate.config import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("TIDEGATE_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "tidegate.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_has_a_default() -> None:
    settings = config.load(None)
    assert settings.http.port == 8080
    assert settings.nats.replicas == 3


def test_the_file_sets_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "[http]\nport = 8081\nhost = '0.0.0.0'\n[stop]\ndrain_delay_s = 1.5\n")
    monkeypatch.setenv("TIDEGATE_HTTP__PORT", "8082")
    settings = config.load(path)
    assert settings.http.port == 8082
    assert settings.http.host == "0.0.0.0"
    assert settings.stop.drain_delay_s == 1.5


def test_nested_settings_and_lists_can_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIDEGATE_IDENTITY__PASSWORD__THREADS", "3")
    monkeypatch.setenv("TIDEGATE_NATS__SERVERS", '["nats://a:4222", "nats://b:4222"]')
    monkeypatch.setenv("TIDEGATE_HTTP__TRUSTED_PROXIES", '["10.0.0.0/8"]')
    settings = config.load(None)
    assert settings.identity.password.threads == 3
    assert settings.nats.servers == ("nats://a:4222", "nats://b:4222")
    assert [str(network) for network in settings.http.trusted_proxies] == ["10.0.0.0/8"]


def test_settings_cannot_be_changed() -> None:
    settings = config.load(None)
    with pytest.raises(ValidationError):
        settings.http.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.http = settings.http  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nprot = 8081\n", "http.prot"),
        ("[htpp]\nport = 8081\n", "htpp"),
        ("port = 8081\n", "port"),
        ("[identity.mail]\npasword_file = '/x'\n", "identity.mail.pasword_file"),
        ("[http]\nport = 'eighty'\n", "http.port"),
        ("[http]\nport = 70000\n", "http.port"),
        ("[log]\nlevel = 'loud'\n", "log.level"),
        ("[nats]\nreplicas = 0\n", "nats.replicas"),
        ("[http]\ntrusted_proxies = ['10.0.0.1/8']\n", "http.trusted_proxies.0"),
        ("http = 7\n", "http"),
    ],
)
def test_each_wrong_setting_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(written(tmp_path, text))
    assert str(raised.value).startswith(f"{named}: ")


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"http\.port.*log\.level"):
        config.load(written(tmp_path, "[http]\nport = -1\n[log]\nlevel = 'loud'\n"))


def test_a_wrong_setting_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_HTTP__PROT", "8081")
    with pytest.raises(ConfigError, match=r"^http\.prot: "):
        config.load(None)


def test_an_environment_value_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_NATS__SERVERS", "nats://user:hunter2@a:4222")
    with pytest.raises(ConfigError) as raised:
        config.load(None)
    assert "nats" in str(raised.value)
    assert "None" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.toml", ""])
def test_a_file_that_is_not_there_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(tmp_path / name)


@pytest.mark.parametrize(
    "raw",
    [b"[http\n", b"port == 1\n", b"\xff\xfe", b"[http]\nport = 1\nport = 2\n", b"a = 'x\n"],
)
def test_a_file_that_is_not_toml_is_an_error_that_names_it(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        config.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "[nats]\nservers = 'nats://user:hunter2@a:4222'\n",
        "[nats]\nservers = ['nats://user:hunter2@a:4222', 7]\n",
        "[nats]\npassword = 'hunter2'\n",
        "[nats]\npassword_file = {value = 'hunter2'}\n",
        "[identity.mail]\nport = 'hunter2'\n",
        "[identity.password]\nthreads = 'hunter2'\n",
        "[sessions]\nissuer = ['hunter2']\n",
        "[http]\ntrusted_proxies = ['hunter2']\n",
        "hunter = 'hunter2\n",
    ],
)
def test_no_value_is_ever_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(written(tmp_path, text))
    shown: BaseException | None = raised.value
    while shown is not None:
        assert "hunter2" not in str(shown)
        shown = shown.__cause__


def test_a_file_with_nothing_in_it_is_fine(tmp_path: Path) -> None:
    assert config.load(written(tmp_path, "")).model_dump() == config.load(None).model_dump()


@pytest.mark.parametrize("name", ["TIDEGATE_HTPP__PORT", "tidegate_nat__servers", "TIDEGATE_"])
def test_a_variable_that_is_no_setting_is_refused_by_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"{name}: there is no such setting"):
        config.load(None)
