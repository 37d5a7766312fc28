"""What cron or systemd runs, and when."""
