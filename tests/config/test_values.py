"""Durations, Redis addresses and the redactor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.config.secrets import Redactor, Secret, sensitive_parts
from restart_guard.config.values import parse_redis_url
from restart_guard.durations import Duration, span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("7d1h", 608400), ("1.5h", 5400), ("0s", 0), ("1w", 604800)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """Each unit, and units in a row, give the number of seconds."""
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5x", "s", "1e9s", "５s", "99999999999d", None, 5, True])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """Numbers without a unit, signs and spans of over a century raise ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        Duration.parse(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_span_reads_back_nearly_the_same(seconds: int) -> None:
    """Two units are shown, so at most one part in a few is lost; what is shown is a duration again."""
    assert abs(Duration.parse(span(seconds)) - seconds) <= max(1, seconds / 24)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", ("localhost", 6379, None, 0, None, None, False)),
        ("rediss://u:p%40ss@h:1/3", ("h", 1, None, 3, "u", "p@ss", True)),
        ("redis://:pw@[::1]:7/2", ("::1", 7, None, 2, None, "pw", False)),
        ("unix:///run/r.sock?db=4", ("localhost", 6379, "/run/r.sock", 4, None, None, False)),
    ],
)
def test_a_redis_url_is_read(url: str, expected: tuple[object, ...]) -> None:
    """All forms of the URL give host, port, socket, database, login and TLS."""
    assert tuple(parse_redis_url(url)) == expected


@given(st.text() | st.text(alphabet="redis:/@[]?#%0 ").map("redis://".__add__))
def test_any_url_is_read_or_refused_in_words(url: str) -> None:
    """No text makes the parser raise anything but a ValueError with a sentence."""
    try:
        parse_redis_url(url)
    except ValueError as error:
        assert "expected" in str(error) or "cannot be read" in str(error)


def test_of_a_url_only_the_password_and_the_query_are_sensitive() -> None:
    """The host of a URL may be shown, a key in its query may not."""
    assert set(sensitive_parts("redis://u:p%40ssw@h:1/0")) == {"p%40ssw", "p@ssw"}
    assert list(sensitive_parts("https://h/send?key=KEYKEY")) == ["KEYKEY"]
    assert list(sensitive_parts("just-a-secret")) == ["just-a-secret"]


@given(st.text(min_size=4, max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_a_redacted_text_does_not_hold_the_secret(secret: str, before: str, after: str) -> None:
    """Also where the secret was quoted for a URL or by repr."""
    redact = Redactor([Secret(key="k", text=secret)])
    for part in sensitive_parts(secret):
        if len(part) >= 4 and part not in "***":
            assert part not in redact(f"{before}{part}{after}").replace("***", "\0")
