"""Five cron fields, as crontab(5) has them. Pure."""

from collections.abc import Iterator

from restart_guard.config_words import shown

_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_CRON_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


def cron_problems(where: str, schedule: str) -> Iterator[str]:
    """What crontab(5) would not take. A backend that skips a bad file silently must not be the first to see it."""
    for text, (field, least, most) in zip(schedule.split(), _CRON_FIELDS, strict=True):
        names = _CRON_NAMES.get(field, ())
        for part in text.lower().split(","):
            span, slash, step = part.partition("/")
            ends = ["0"] if span == "*" else span.split("-")
            numbers = [names.index(end) + least if end in names else _whole(end) for end in ends]
            in_range = all(least <= number <= most for number in numbers) or span == "*"
            stepped = not slash or (_whole(step) > 0 and (span == "*" or len(ends) == 2))
            if not in_range or not stepped or len(ends) > 2 or numbers != sorted(numbers):
                yield f"{where}: expected a {field} of {least} to {most}, * or a list of these, was {shown(text)}."
                break


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else -1
