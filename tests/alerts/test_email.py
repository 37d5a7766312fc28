"""E-mail against a real SMTP server on loopback."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from restart_guard.alerts.channels import email, registry
from restart_guard.alerts.channels.post import Message
from restart_guard.config import load
from restart_guard.errors import DeliveryError
from tests.support.servers import free_port

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore:Requiring AUTH")]

MESSAGE = Message("【报警】数据检查失败 | 主机\n第二行", mention=True, incident="abcd1234", event={"run_id": "r-1"})


class Box:
    """A server's mailbox; it takes nobody whose name begins with ``no``."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []
        self.receivers: list[list[str]] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802 (aiosmtpd's)
        if address.startswith("no"):
            return "550 5.1.1 there is no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (as above)
        letter = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        self.receivers.append(list(envelope.rcpt_tos))
        return "250 OK"


def knows(_server: object, _session: object, _envelope: object, _how: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"guard", b"mail-s3cret"), handled=False)


@contextmanager
def serving(box: Box, certificates: Path, *, tls: bool = False) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    port = free_port()
    secured: dict[str, Any] = {"ssl_context": context} if tls else {"tls_context": context, "require_starttls": True}
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        authenticator=knows,
        auth_required=True,
        auth_require_tls=not tls,
        **secured,
    )
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def options(folder: Path, port: int, certificates: Path, **more: str) -> Any:
    values = {
        "host": "localhost",
        "user": "guard",
        "password": "mail-s3cret",
        "sender": "guard@example.org",
        "ca_file": str(certificates / "ca.crt"),
    } | more
    to = more.pop("to", "you@example.org")
    lines = "".join(f'{name} = "{value}"\n' for name, value in values.items() if name != "to" and value)
    receivers = ", ".join(f'"{one}"' for one in to.split())
    (folder / "config.toml").write_text(f'[alerts.m]\nkind = "email"\nport = {port}\nto = [{receivers}]\n{lines}')
    return load.load(folder / "config.toml", {}, registry.options).alerts["m"].options


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_letter(tmp_path: Path, certificates: Path, tls: str) -> None:
    """The first line is its subject; one incident is one thread, and one that is sent again has the same id."""
    box = Box()
    with serving(box, certificates, tls=tls == "tls") as port:
        mail = options(tmp_path, port, certificates, tls=tls)
        for _ in range(2):
            assert email.send(mail, MESSAGE) is None
    first, second = box.letters
    assert first["Subject"] == "【报警】数据检查失败 | 主机"
    assert first.get_content().splitlines() == MESSAGE.text.splitlines()
    assert first["Message-ID"] == second["Message-ID"] == "<restart-guard.r-1@example.org>"
    assert first["References"] == "<restart-guard.incident.abcd1234@example.org>"
    assert (first["From"], first["To"]) == ("guard@example.org", "you@example.org")


def test_receivers_who_are_refused(tmp_path: Path, certificates: Path) -> None:
    """The others get it, and that is noted; if there is none, a person must mend it."""
    box = Box()
    with serving(box, certificates) as port:
        note = email.send(options(tmp_path, port, certificates, to="you@example.org nobody@example.org"), MESSAGE)
        assert note == "The mail server does not take nobody@example.org; the others got the message."
        assert box.receivers == [["you@example.org"]]
        with pytest.raises(DeliveryError, match="no such person") as caught:
            email.send(options(tmp_path, port, certificates, to="nobody@example.org"), MESSAGE)
        assert caught.value.permanent


def test_logins_and_certificates(tmp_path: Path, certificates: Path) -> None:
    """A wrong password and a certificate that is not trusted need a person; neither shows the password."""
    with serving(Box(), certificates) as port:
        for more, told in (
            ({"password": "wrong-0001"}, "check user, password"),
            ({"ca_file": ""}, "its certificate is not trusted"),
            ({"tls": "none"}, "refuses the message"),
        ):
            with pytest.raises(DeliveryError) as caught:
                email.send(options(tmp_path, port, certificates, **more), MESSAGE)
            assert told in str(caught.value), str(caught.value)
            assert caught.value.permanent
            assert "wrong-0001" not in str(caught.value)


def test_a_server_that_hangs_or_is_gone(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, and it is tried again."""
    monkeypatch.setattr(email, "_WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        port = hung.getsockname()[1]
        for _ in range(2):
            with pytest.raises(DeliveryError, match="could not be reached") as caught:
                email.send(options(tmp_path, port, certificates, host="127.0.0.1"), MESSAGE)
            assert not caught.value.permanent
            hung.close()
