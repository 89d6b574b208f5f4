import pytest

from tidegate.devstack.mail_sink import Mail, read


def test_the_text_of_a_plain_mail_is_read_with_plain_line_ends() -> None:
    content = b"Subject: Hello\r\n\r\nYour token: abc\r\nBye\r\n"
    assert read(content) == ("Hello", "Your token: abc\nBye\n")


def test_encoded_words_and_bodies_are_decoded() -> None:
    content = (
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n"
        b"WsO8cmljaA==\r\n"
    )
    assert read(content) == ("Grüße", "Zürich")


def test_of_several_parts_the_plain_text_is_taken() -> None:
    content = (
        b'Content-Type: multipart/alternative; boundary="x"\r\n\r\n'
        b"--x\r\nContent-Type: text/html\r\n\r\n<b>rich</b>\r\n"
        b"--x\r\nContent-Type: text/plain\r\n\r\nplain\r\n--x--\r\n"
    )
    assert read(content) == ("", "plain")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"no header at all",
        b"Content-Type: text/plain; charset=no-such-set\r\n\r\nbody",
        b"Content-Type: multipart/mixed\r\n\r\nno boundary",
        b"Subject: \xff\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
    ],
)
def test_a_broken_mail_is_still_read_as_text(content: bytes) -> None:
    subject, text = read(content)
    assert isinstance(subject, str)
    assert isinstance(text, str)


def test_a_mail_with_an_unknown_character_set_keeps_its_body() -> None:
    content = b"Content-Type: text/plain; charset=no-such-set\r\n\r\nthe body"
    assert "the body" in read(content)[1]


def test_a_mail_knows_each_of_its_recipients() -> None:
    mail = Mail("1", ("ann@example.com", "Bob@example.com"), "", "", "")
    assert mail.to == "ann@example.com, Bob@example.com"
    assert mail.is_to("bob@EXAMPLE.com")
    assert not mail.is_to("ann")
