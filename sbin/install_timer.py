#!/usr/bin/env python3
"""Writes the lines that cron runs into your crontab: install_timer.py [--watch] [--dry-run] [--yes]"""

import os
import sys
from pathlib import Path

sbin = Path(__file__).resolve().parent
os.chdir(sbin)
os.execv(sbin / "run.sh", ["run.sh", "install-timer", *sys.argv[1:]])  # noqa: S606 (there is none in between)
