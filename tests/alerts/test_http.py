"""Why a request failed, from real servers that fail so."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from restart_guard.alerts import http
from tests.test_dial import dead

pytestmark = pytest.mark.server
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def certificate(folder: Path, begin: dt.datetime, end: dt.datetime) -> Path:
    """A key and a certificate for 127.0.0.1 that is its own authority, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    return path


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Each connection is served in turn; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        serve(client)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def failure(url: str, *, proxy: str | None = None, ca_file: Path | None = None) -> http.HttpError:
    with pytest.raises(http.HttpError) as caught:
        http.ask(http.Request("POST", url, b"{}", "application/json"), proxy=proxy, ca_file=ca_file)
    return caught.value


@pytest.mark.parametrize(
    ("begin", "end", "told", "permanent"),
    [
        (NOW - 9 * DAY, NOW - DAY, "or this host's clock is wrong", False),
        (NOW + DAY, NOW + 9 * DAY, "or this host's clock is wrong", False),
        (NOW - DAY, NOW + DAY, "is not trusted", True),
    ],
    ids=["expired", "not yet valid", "not trusted"],
)
def test_a_certificate_of_another_time_may_be_the_clock_s_fault(
    tmp_path: Path, begin: dt.datetime, end: dt.datetime, told: str, permanent: bool
) -> None:
    """It is tried again: a host whose clock was wrong must not lose its alerts for good."""
    path = certificate(tmp_path, begin, end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    def serve(client: socket.socket) -> None:
        context.wrap_socket(client, server_side=True).close()

    with server(serve) as port:
        # Only what is trusted can be judged by its time.
        error = failure(f"https://127.0.0.1:{port}/", ca_file=None if permanent else path)
    assert (error.code, error.permanent, told in str(error)) == ("tls", permanent, True), error


@pytest.mark.parametrize(("status", "permanent"), [("407 Proxy Authentication Required", True), ("502 Bad", False)])
def test_what_a_proxy_says_is_told(status: str, permanent: bool) -> None:
    """A login that is missing needs a person; a proxy in trouble is tried again."""

    def serve(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    with server(serve) as port:
        error = failure("https://qyapi.weixin.qq.com/send?key=the-secret-key", proxy=f"http://127.0.0.1:{port}")
    assert (error.code, error.permanent) == ("proxy", permanent), error
    assert status.split(maxsplit=1)[0] in str(error)


def test_dead_addresses_share_the_time_with_the_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with two silent addresses before the one that answers is reached in time."""

    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with server(answer) as port, dead("127.0.0.2", port), dead("127.0.0.3", port):
        known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (2, 3, 1)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: known)
        assert http.ask(http.Request("GET", f"http://three.example:{port}/")) == (200, b"ok")
