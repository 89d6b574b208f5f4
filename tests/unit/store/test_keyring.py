import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.kernel.secret import Secret
from tidegate.store.keyring import (
    DataKey,
    KeyRing,
    KeyRingError,
    Peppers,
    Undecryptable,
    Wrapping,
    digest,
    new_ring_text,
    parse_ring,
    read_ring,
)

OLD = base64.b64encode(b"o" * 32).decode()
NEW = base64.b64encode(b"n" * 32).decode()


def ring(*lines: str) -> KeyRing:
    return parse_ring("\n".join(lines), "ring")


# --- reading ---


def test_the_first_key_is_the_current_one() -> None:
    read = ring("# keys", "", f"2026 {NEW}", f"  2025\t{OLD}  ")
    assert read.current == "2026"
    assert list(read.keys) == ["2026", "2025"]
    assert read.key("2025").reveal() == b"o" * 32


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a", "expected"),
        (OLD, "expected"),
        (f"{OLD} a", "expected"),
        (f"a {OLD} b", "expected"),
        (f"A {OLD}", "expected"),
        (f"a.b {OLD}", "expected"),
        (f"{'a' * 33} {OLD}", "expected"),
        (f"a:{OLD}", "expected"),
        (f"a {OLD[:-1]}", "not base64"),
        (f"a {OLD[:-2]}*=", "not base64"),
        ("a schlüsselschlüsselschlüsselschlüsselschlüs=", "not base64"),
        (f"a {base64.urlsafe_b64encode(bytes([255]) * 32).decode()}", "not base64"),
        (f"a {base64.b64encode(b'o' * 31).decode()}", "31 bytes"),
        (f"a {base64.b64encode(b'o' * 33).decode()}", "33 bytes"),
        (f"first {OLD}", "first stands twice"),
    ],
)
def test_a_bad_line_is_named_and_its_key_is_not_shown(line: str, problem: str) -> None:
    with pytest.raises(KeyRingError, match=problem) as caught:
        parse_ring(f"first {NEW}\n\n{line}\n", "/run/secrets/ring")
    told = str(caught.value)
    assert told.startswith("/run/secrets/ring, line 3: ")
    assert caught.value.__cause__ is None
    for word in line.split():
        assert len(word) < 31 or word[:31] not in told


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n   # here\n"])
def test_an_empty_ring_is_refused(text: str) -> None:
    with pytest.raises(KeyRingError, match=r"^/run/ring: no key in it$"):
        parse_ring(text, "/run/ring")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyRingError, match=r"ring: No such file"):
        read_ring(tmp_path / "ring")


def test_a_file_of_raw_bytes_is_refused_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_bytes(b"\xff" * 16 + b"secretsecretsecr")
    with pytest.raises(KeyRingError, match="not a text file") as caught:
        read_ring(path)
    assert str(path) in str(caught.value)
    assert caught.value.__suppress_context__


@given(st.text(alphabet="ab01-#. \n\t=Ä" + OLD[0], max_size=80))
def test_any_text_is_a_ring_or_a_key_ring_error(text: str) -> None:
    with contextlib.suppress(KeyRingError):
        read = parse_ring(text, "ring")
        assert read.current in read.keys


def test_a_fresh_ring_can_be_read_and_differs_each_time() -> None:
    one, other = parse_ring(new_ring_text("k1"), "one"), parse_ring(new_ring_text("k1"), "other")
    assert one.current == "k1"
    assert one.key("k1") != other.key("k1")


def test_a_ring_does_not_show_its_keys() -> None:
    read = ring(f"a {OLD}")
    for shown in (repr(read), str(read), repr(Wrapping(read)), repr(Peppers(read))):
        assert OLD not in shown
        assert "oooo" not in shown


# --- wrapping ---


def test_what_is_wrapped_can_be_unwrapped() -> None:
    wrapping = Wrapping(ring(f"a {OLD}"))
    wrapped = wrapping.wrap(Secret("totp seed"), "user.1.totp")
    assert wrapped["k"] == "a"
    assert wrapping.unwrap(wrapped, "user.1.totp") == Secret("totp seed")


def test_the_same_secret_never_wraps_to_the_same_text() -> None:
    wrapping = Wrapping(ring(f"a {OLD}"))
    wrapped = [wrapping.wrap(Secret("same"), "key") for _ in range(100)]
    assert len({each["c"] for each in wrapped}) == 100
    assert len({each["n"] for each in wrapped}) == 100


def test_after_a_rotation_old_values_open_and_new_ones_name_the_new_key() -> None:
    wrapped = Wrapping(ring(f"old {OLD}")).wrap(Secret("x"), "key")
    rotated = Wrapping(ring(f"new {NEW}", f"old {OLD}"))
    assert rotated.unwrap(wrapped, "key") == Secret("x")
    assert rotated.wrap(Secret("x"), "key")["k"] == "new"


def test_a_value_of_a_key_taken_out_of_the_ring_is_a_key_ring_error() -> None:
    wrapped = Wrapping(ring(f"old {OLD}")).wrap(Secret("x"), "key")
    with pytest.raises(KeyRingError, match="no key 'old'"):
        Wrapping(ring(f"new {NEW}")).unwrap(wrapped, "key")


def test_a_ciphertext_moved_to_another_entry_does_not_open() -> None:
    wrapping = Wrapping(ring(f"a {OLD}"))
    wrapped = wrapping.wrap(Secret("x"), "user.1.totp")
    with pytest.raises(Undecryptable):
        wrapping.unwrap(wrapped, "user.2.totp")


def _flip(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[-1] ^= 1
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    "alter",
    [
        lambda wrapped: wrapped | {"c": _flip(wrapped["c"])},
        lambda wrapped: wrapped | {"n": _flip(wrapped["n"])},
        lambda wrapped: wrapped | {"k": "other"},
        lambda wrapped: wrapped | {"c": wrapped["c"][:-4]},
        lambda wrapped: wrapped | {"c": ""},
        lambda wrapped: wrapped | {"n": ""},
        lambda wrapped: wrapped | {"c": "*"},
        lambda wrapped: wrapped | {"c": "ä"},
        lambda wrapped: wrapped | {"c": None},
        lambda wrapped: wrapped | {"n": 7},
        lambda wrapped: {"k": wrapped["k"], "n": wrapped["n"]},
        lambda wrapped: {"k": wrapped["k"], "c": wrapped["c"]},
    ],
)
def test_anything_altered_is_refused(alter: Callable[[dict[str, str]], dict[str, Any]]) -> None:
    wrapping = Wrapping(ring(f"a {OLD}", f"other {NEW}"))
    wrapped = wrapping.wrap(Secret("x"), "key")
    with pytest.raises(Undecryptable):
        wrapping.unwrap(alter(wrapped), "key")


@pytest.mark.parametrize("wrapped", [{}, {"k": "gone"}, {"k": None}, {"k": ["a"]}])
def test_a_value_that_names_no_key_of_the_ring_is_a_key_ring_error(wrapped: dict[str, Any]) -> None:
    with pytest.raises(KeyRingError, match="no key"):
        Wrapping(ring(f"a {OLD}")).unwrap(wrapped, "key")


def test_a_data_key_opens_only_its_own_fields() -> None:
    one, other = DataKey.fresh(), DataKey.fresh()
    sealed = one.seal("Grüße", "user.1 email")
    assert one.unseal(sealed, "user.1 email") == "Grüße"
    assert DataKey(one.key).unseal(sealed, "user.1 email") == "Grüße"
    for key, bound_to in ((other, "user.1 email"), (one, "user.1 name")):
        with pytest.raises(Undecryptable):
            key.unseal(sealed, bound_to)


# --- peppers ---


def test_a_mac_holds_for_its_purpose_message_and_key_only() -> None:
    peppers = Peppers(ring(f"new {NEW}", f"old {OLD}"))
    mac = peppers.mac("e-mail", b"a@example.com")
    assert len(mac) == 32
    assert peppers.verify("e-mail", b"a@example.com", mac, "new")
    assert not peppers.verify("cursor", b"a@example.com", mac, "new")
    assert not peppers.verify("e-mail", b"b@example.com", mac, "new")
    assert not peppers.verify("e-mail", b"a@example.com", mac, "old")
    assert not peppers.verify("e-mail", b"a@example.com", mac, "gone")
    assert not peppers.verify("e-mail", b"a@example.com", b"", "new")


def test_purposes_and_keys_are_independent() -> None:
    peppers = Peppers(ring(f"new {NEW}", f"old {OLD}"))
    macs = {
        peppers.mac(purpose, b"m", key_id)
        for purpose in ("", "a", "b", "ab")
        for key_id in ("new", "old")
    }
    assert len(macs) == 8


def test_after_a_rotation_old_macs_still_verify() -> None:
    mac = Peppers(ring(f"old {OLD}")).mac("e-mail", b"m")
    rotated = Peppers(ring(f"new {NEW}", f"old {OLD}"))
    assert rotated.key_ids == ("new", "old")
    assert rotated.current == "new"
    assert rotated.mac("e-mail", b"m", "old") == mac
    assert rotated.verify("e-mail", b"m", mac, "old")


def test_a_mac_does_not_change_between_releases() -> None:
    # Keys of entries are made of it: a change would orphan every e-mail address.
    assert Peppers(ring(f"a {OLD}")).mac("e-mail", b"m").hex() == (
        "212253fd832190700c89bb50d95f976f8a2056895e1ca51b5e45c0fc7bb236a1"
    )


def test_an_unknown_key_id_is_an_error() -> None:
    with pytest.raises(KeyRingError, match="no key 'gone'"):
        Peppers(ring(f"a {OLD}")).mac("e-mail", b"m", "gone")


def test_digest_is_sha256() -> None:
    assert digest(Secret("abc")) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
