import stat
from pathlib import Path

from tidegate.devstack.secrets_dir import SecretsDir
from tidegate.store.keyring import read_ring


def test_the_first_start_makes_usable_secrets(tmp_path: Path) -> None:
    files = SecretsDir.prepare(tmp_path / "secrets", "nats-secret")
    assert read_ring(files.wrapping_keys).current == "dev"
    assert read_ring(files.peppers).current == "dev"
    assert len(files.admin_password.read_text()) >= 15
    assert files.nats_password.read_text() == "nats-secret"


def test_later_starts_use_them_again_with_the_password_nats_has_then(tmp_path: Path) -> None:
    first = SecretsDir.prepare(tmp_path / "secrets", "old")
    kept = [path.read_text() for path in (first.wrapping_keys, first.peppers, first.admin_password)]
    again = SecretsDir.prepare(tmp_path / "secrets", "new")
    assert again == first
    assert [
        path.read_text() for path in (again.wrapping_keys, again.peppers, again.admin_password)
    ] == kept
    assert again.nats_password.read_text() == "new"


def test_each_installation_has_its_own(tmp_path: Path) -> None:
    one, other = (SecretsDir.prepare(tmp_path / name, "x") for name in ("one", "other"))
    assert one.wrapping_keys.read_text() != other.wrapping_keys.read_text()
    assert one.admin_password.read_text() != other.admin_password.read_text()


def test_only_their_owner_can_read_them(tmp_path: Path) -> None:
    SecretsDir.prepare(tmp_path / "secrets", "x")
    folder = tmp_path / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
