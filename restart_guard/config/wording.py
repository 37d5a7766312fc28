"""The texts of config problems: keys, values, and suggestions. Pure."""

from collections.abc import Iterator

import msgspec


def suggestion(word: str, known: Iterator[str] | list[str]) -> str:
    """`` (did you mean …?)`` if a known word is similar, else nothing."""
    # Only a mistake needs it, and a tick must not pay for it.
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def key(name: str) -> str:
    """A key as TOML writes it: without quotes if possible."""
    bare = name and all(character.isalnum() or character in "-_" for character in name)
    return name if bare else quoted(name)


def quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value if len(value) <= 60 else value[:57] + "…")
        case dict():
            return "a table"
        case list():
            odd = [part for part in value if not isinstance(part, str) or not part]
            return "an empty list" if not value else f"a list with {shown(odd[0])} in it" if odd else "a list"
        case int() if abs(value) >= 10**18:
            return "a huge number"
    return str(value)
