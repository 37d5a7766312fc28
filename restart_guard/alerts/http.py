"""HTTP with every wait bounded, no redirects, no login of ~/.netrc, and errors without the URL: keys travel in it."""

import errno
import socket
import ssl
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from restart_guard import clock
from restart_guard.dial import dial
from restart_guard.threads import within

_CONNECT_S = 3.0
_READ_S = 4.0
_REFUSED_BY_PROXY = "Tunnel connection failed: "  # of http.client
_TOTAL_S = 8.0
_LARGEST_REPLY = 65536


class HttpError(Exception):
    """No answer was received. The text is the reason without the host; ``permanent``: only a person can fix it."""

    def __init__(self, why: str, *, code: str, permanent: bool = False) -> None:
        super().__init__(why)
        self.code = code
        self.permanent = permanent


class Request(NamedTuple):
    method: str
    url: str
    data: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})


def host_of(url: str) -> str:
    """The host of a URL; empty if the URL cannot be parsed."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def ask(request: Request, *, proxy: str | None = None, ca_file: Path | None = None) -> tuple[int, bytes]:
    """The status and the body. Raises HttpError.

    Without a proxy those of the environment are used, except for loopback. The whole has a time limit: a server that
    sends one byte now and then keeps every single read short.
    """
    try:
        return within(_TOTAL_S, partial(_ask, request, proxy, ca_file))
    except TimeoutError as error:
        raise HttpError("no answer in time", code="timeout") from error


def _ask(request: Request, proxy: str | None, ca_file: Path | None) -> tuple[int, bytes]:
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter())
        session.trust_env = not proxy and host_of(request.url) not in ("localhost", "127.0.0.1", "::1")
        session.auth = _no_login
        try:
            with session.request(
                request.method,
                request.url,
                data=request.data,
                headers={**request.headers, **({"Content-Type": request.content_type} if request.content_type else {})},
                timeout=(_CONNECT_S, _READ_S),
                allow_redirects=False,
                stream=True,
                verify=str(ca_file) if ca_file else True,
                proxies={"http": proxy, "https": proxy} if proxy else {},
            ) as answer:
                return answer.status_code, _body(answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _translated(error) from error


class _Dialing:
    """One time limit for all addresses of a host, of which some may be dead."""

    def _new_conn(self: Any) -> socket.socket:
        # In the words of urllib3's own method, which has the limit for each address.
        try:
            return dial(self._dns_host, self.port, self.timeout)
        except socket.gaierror as error:
            raise urllib3.exceptions.NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(self, f"Connection to {self.host} timed out.") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(self, f"Failed to establish a connection: {error}") from error


class _Connection(_Dialing, HTTPConnection):
    pass


class _TlsConnection(_Dialing, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from adding a login that ~/.netrc has for the host."""
    return request


def _body(answer: requests.Response) -> bytes:
    """The body, limited in size and time: each read may be short and the whole still endless."""
    deadline = clock.monotonic() + _TOTAL_S
    body = b""
    # read1: iter_content would wait for a whole chunk, however slowly it comes.
    while chunk := answer.raw.read1(8192, decode_content=True):
        body += chunk
        if len(body) > _LARGEST_REPLY:
            break
        if clock.monotonic() > deadline:
            raise requests.Timeout
    return body


def _translated(error: Exception) -> HttpError:
    """The reason of a failure below HTTP. Only a certificate that is not trusted needs a person."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError(verify_code=9 | 10):  # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED
                why = f"its certificate is not valid now ({cause.verify_message}), or this host's clock is wrong"
                return HttpError(why, code="tls")
            case ssl.SSLCertVerificationError():
                return HttpError(f"its certificate is not trusted ({cause.verify_message})", code="tls", permanent=True)
            case requests.Timeout() | TimeoutError():
                return HttpError("no answer in time", code="timeout")
            case ConnectionRefusedError():
                return HttpError("the connection was refused", code="refused")
            case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
                return HttpError(f"there is no way to it ({cause.strerror})", code="network")
            # The innermost alone begins so; those around it quote it, and the URL.
            case OSError() if str(cause).startswith(_REFUSED_BY_PROXY):
                answer = str(cause).removeprefix(_REFUSED_BY_PROXY)
                return HttpError(f"the proxy refuses it ({answer})", code="proxy", permanent=answer.startswith("407"))
            case urllib3.exceptions.NameResolutionError():
                return HttpError("its name cannot be resolved", code="dns")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return HttpError(error.strerror or type(error).__name__, code="network")
    return HttpError(f"the connection failed ({type(error).__name__})", code="network")
