"""restart-guard: a watchdog for cron."""

__version__ = "0.1.0"
