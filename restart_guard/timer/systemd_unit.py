"""The systemd units of a job: a .service, and a .timer for a job that runs at certain times. Pure: text out.

``KillMode=process``: when a tick ends, systemd would kill everything in its control group, and so the program that it
has just launched (systemd.kill(5)).
"""

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from restart_guard.errors import GuardError
from restart_guard.timer.jobs import Job

_STAY = ("watch", "standby")
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def units(job: Job, name: str, *, title: str, user_manager: bool, random_delay_s: float) -> dict[str, str]:
    """File names and contents. A watch and a standby are services that stay; other jobs have a timer. Raises
    GuardError."""
    stays = job.name in _STAY
    service = [
        *("[Unit]", f"Description={_plain(f'restart-guard {job.name}, {title}')}"),
        *(
            ["StartLimitIntervalSec=0"] if stays else []
        ),  # a config that is broken for a while must not stop the service for good
        *("", "[Service]", f"Type={'exec' if stays else 'oneshot'}"),
        f"ExecStart={' '.join(_word(word, first=not at) for at, word in enumerate(job.words) if not _turn(job, at))}",
        "KillMode=process",
        f"StandardOutput=append:{_plain(str(job.log))}",
        f"StandardError=append:{_plain(str(job.errors))}",
    ]
    if stays:
        target = "default.target" if user_manager else "multi-user.target"
        # Its targets may drain for long; the standby process itself limits that.
        service += ["TimeoutStopSec=infinity"] if job.name == "standby" else []
        service += ["Restart=always", "RestartSec=1", "", "[Install]", f"WantedBy={target}"]
        return {f"{name}.service": _file(service)}
    service.append(
        "TimeoutStartSec=2h"
    )  # a oneshot has no timeout by default, and a hanging run would block all later ones
    # The default accuracy is a minute, too coarse for a tick each minute.
    timer = [
        *("[Unit]", f"Description={_plain(f'When restart-guard {job.name} runs, {title}')}"),
        *("", "[Timer]", *(f"OnCalendar={moment}" for moment in on_calendar(job.schedule)), "AccuracySec=1s"),
    ]
    if job.weekly:
        timer.append("Persistent=true")
        if random_delay_s:
            timer += [f"RandomizedDelaySec={random_delay_s:.0f}", "FixedRandomDelay=true"]
    timer += ["", "[Install]", "WantedBy=timers.target"]
    return {f"{name}.service": _file(service), f"{name}.timer": _file(timer)}


def on_calendar(schedule: str) -> list[str]:
    """Five cron fields in the form of systemd.time(7). Raises GuardError if it has no such form.

    Two lines if cron means "this day of the month or that day of the week".
    """
    try:
        cron = CronSim(schedule, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise GuardError(f"This schedule names no moment: {schedule}.") from error
    weekdays = {day % 7 if isinstance(day, int) else -1 for day in cron.weekdays}
    if min(cron.days) < 1 or min(weekdays) < 0:
        raise GuardError(f"A systemd timer cannot say this schedule: {schedule}.")
    months, days = _numbers(cron.months, 12), _numbers(cron.days, 31)
    time = f"{_numbers(cron.hours, 24)}:{_numbers(cron.minutes, 60)}:00"
    names = "" if len(weekdays) == 7 else ",".join(_DAYS[day] for day in sorted(weekdays)) + " "
    if cron.day_and:
        return [f"{names}*-{months}-{days} {time}"]
    if days == "*" or not names:
        return [f"*-{months}-* {time}"]
    return [f"*-{months}-{days} {time}", f"{names}*-{months}-* {time}"]


def _numbers(values: set[int], count: int) -> str:
    return "*" if len(values) == count else ",".join(f"{value:02}" for value in sorted(values))


def _turn(job: Job, at: int) -> bool:
    """Whether a word is only for processes that cron starts each minute, which take turns; a service stays."""
    return job.name in _STAY and (job.words[at] == "--for" or job.words[at - 1] == "--for")


def _word(word: str, *, first: bool) -> str:
    """A word of ExecStart. systemd does not expand variables in the program itself (systemd.service(5))."""
    plain = _plain(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain if first else plain.replace("$", "$$")}"'


def _plain(text: str) -> str:
    if not text.isprintable():
        raise GuardError(f"A systemd unit cannot hold this path: {text!r}.")
    return text.replace("%", "%%")


def _file(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
