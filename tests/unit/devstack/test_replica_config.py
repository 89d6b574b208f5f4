import tomllib
from pathlib import Path

import pytest

from tidegate import config
from tidegate.devstack.ports import Ports
from tidegate.devstack.replica_config import replica_config, to_toml
from tidegate.devstack.secrets_dir import SecretsDir

PORTS = Ports(
    http=(8080, 8081), mail_http=8090, mail_smtp=8091, aggregate=8092, projection=8093, nats=(8094,)
)
NATS_URLS = ["nats://gateway:marked-secret@127.0.0.1:8094"]


@pytest.fixture
def secrets(tmp_path: Path) -> SecretsDir:
    return SecretsDir.prepare(tmp_path / "secrets", "marked-secret")


def load(tmp_path: Path, text: str) -> config.Settings:
    path = tmp_path / "replica.toml"
    path.write_text(text)
    return config.load(path)


def test_the_program_accepts_it(tmp_path: Path, secrets: SecretsDir) -> None:
    settings = load(tmp_path, replica_config(PORTS, 1, NATS_URLS, secrets))
    assert settings.http.port == 8081
    assert settings.nats.servers == ("nats://127.0.0.1:8094",)
    assert settings.nats.user == "gateway"
    assert settings.nats.password_file == secrets.nats_password
    assert settings.identity.mail.port == 8091


def test_replicas_differ_in_their_port_alone(tmp_path: Path, secrets: SecretsDir) -> None:
    first, second = (
        load(tmp_path, replica_config(PORTS, place, NATS_URLS, secrets)).model_dump()
        for place in (0, 1)
    )
    assert (first["http"].pop("port"), second["http"].pop("port")) == (8080, 8081)
    assert first == second


def test_on_a_cluster_it_names_every_server_and_asks_for_a_copy_on_each(
    tmp_path: Path, secrets: SecretsDir
) -> None:
    urls = [f"nats://gateway:marked-secret@127.0.0.1:{port}" for port in (8094, 8095, 8096)]
    settings = load(tmp_path, replica_config(PORTS, 0, urls, secrets)).nats
    assert settings.servers == tuple(f"nats://127.0.0.1:{port}" for port in (8094, 8095, 8096))
    assert settings.replicas == 3


def test_it_holds_no_secret(secrets: SecretsDir) -> None:
    assert "marked-secret" not in replica_config(PORTS, 0, NATS_URLS, secrets)


@pytest.mark.parametrize("value", ['a"b\\c\n\t', "Ü 🙂", "", [1, 2.5, "x"], True, 7])
def test_values_come_back_as_they_were(value: object) -> None:
    assert tomllib.loads(to_toml({"a.b": {"key": value}})) == {"a": {"b": {"key": value}}}
