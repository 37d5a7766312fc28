"""E-mail by SMTP (RFC 5321) with STARTTLS (RFC 3207) or TLS, both verified."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from restart_guard.alerts.channels.post import Message, refused, reveal
from restart_guard.config.options import Port, Text, Texts
from restart_guard.config.secrets import Secret
from restart_guard.errors import DeliveryError

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

_NAME = "The mail server"
_WAIT_S = 7.0


class Options(Struct, frozen=True, kw_only=True):
    """``tls = "none"`` is for a server on this host only."""

    host: Text
    port: Port | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: Text | None = None
    password: Secret | None = None
    sender: Annotated[str, Meta(pattern="@", description="an address such as guard@example.org")]
    to: Texts
    ca_file: Path | None = None


def send(options: Options, message: Message) -> str | None:
    """Raises DeliveryError, also if none of the receivers is taken; a note names those that are not."""
    # Its options are read in every tick, which sends no mail: here and below.
    import smtplib
    import ssl

    try:
        with _connected(options) as server:
            if options.user is not None:
                server.login(options.user, reveal(options.password) if options.password is not None else "")
            left = server.send_message(_letter(options, message), options.sender, list(options.to))
    except smtplib.SMTPAuthenticationError as error:
        raise refused(
            _NAME, _said(error), code=error.smtp_code, permanent=True, advice="check user, password"
        ) from None
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        raise refused(
            _NAME, said.decode(errors="replace"), code=code, permanent=code >= 500, advice="check to"
        ) from None
    except smtplib.SMTPResponseException as error:
        is_ours = error.smtp_code >= 500
        raise refused(_NAME, _said(error), code=error.smtp_code, permanent=is_ours, advice="check sender") from None
    except smtplib.SMTPNotSupportedError as error:
        raise refused(_NAME, error, code="smtp", permanent=True, advice="check tls and port") from None
    except ssl.SSLCertVerificationError as error:
        text = f"{_NAME} {options.host}: its certificate is not trusted ({error.verify_message}); see ca_file."
        raise DeliveryError(text, code="tls", permanent=True) from error
    except (OSError, smtplib.SMTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = f"{_NAME} {options.host} could not be reached: {why}."
        raise DeliveryError(text, code="network", permanent=False) from error
    return f"The mail server does not take {', '.join(left)}; the others got the message." if left else None


def _connected(options: Options) -> "smtplib.SMTP":
    # As above.
    import smtplib
    import ssl

    context = ssl.create_default_context(cafile=options.ca_file)
    if options.tls == "tls":
        return smtplib.SMTP_SSL(options.host, options.port or 465, timeout=_WAIT_S, context=context)
    with ExitStack() as on_error:
        server = smtplib.SMTP(options.host, options.port or 587, timeout=_WAIT_S)
        on_error.callback(server.close)
        if options.tls == "starttls":
            server.starttls(context=context)
        on_error.pop_all()
    return server


def _letter(options: Options, message: Message) -> "EmailMessage":
    """One incident is one thread. A mail that is sent again, since nobody knows whether it arrived, has the same
    Message-ID."""
    # As above.
    from email.message import EmailMessage
    from email.utils import formatdate

    letter = EmailMessage()
    letter["Subject"] = " ".join(message.subject.split())
    letter["From"], letter["To"], letter["Date"] = options.sender, ", ".join(options.to), formatdate()
    domain = options.sender.rpartition("@")[2]
    number = str(message.event.get("run_id") or os.urandom(8).hex())
    letter["Message-ID"] = f"<restart-guard.{number}@{domain}>"
    if message.incident:
        letter["References"] = f"<restart-guard.incident.{message.incident}@{domain}>"
    letter.set_content(message.text)
    return letter


def _said(error: "smtplib.SMTPResponseException") -> str:
    text = error.smtp_error
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
