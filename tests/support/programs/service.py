"""A program to guard: says that it is ready, then waits. ``ignore-term`` and ``slow-stop SECONDS`` say how it ends."""

import signal
import sys
import time

if "ignore-term" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "slow-stop" in sys.argv:
    seconds = float(sys.argv[sys.argv.index("slow-stop") + 1])

    def stop(*_: object) -> None:
        time.sleep(seconds)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
if "fail" in sys.argv:
    sys.exit("the port is taken")
print("ready", flush=True)
while True:
    time.sleep(60)
