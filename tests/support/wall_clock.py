"""A wall clock that a test can move while programs run: a library that is loaded before theirs (ld.so(8))."""

import mmap
import os
import struct
import subprocess
from pathlib import Path

from tests.support.servers import find_program

# Without a single header, so that a compiler is all that it needs. CLOCK_REALTIME is 0; all other clocks are real.
_SOURCE = """
struct timespec { long seconds, nanoseconds; };
struct timeval { long seconds, microseconds; };
extern char *getenv(const char *);
extern int open(const char *, int, ...);
extern void *mmap(void *, unsigned long, int, int, int, long);
extern long syscall(long, ...);
static volatile long none, *offset = &none;
#ifdef __aarch64__
enum { CLOCK_GETTIME = 113 };
#else
enum { CLOCK_GETTIME = 228 };
#endif
__attribute__((constructor)) static void begin(void) {
    char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, 0) : -1;
    void *page = file < 0 ? (void *) -1 : mmap(0, 4096, 1, 1, file, 0);
    if (page != (void *) -1) offset = page;
}
int clock_gettime(int clock, struct timespec *now) {
    int result = syscall(CLOCK_GETTIME, clock, now);
    if (clock == 0) now->seconds += *offset;
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(0, &found);
    now->seconds = found.seconds;
    now->microseconds = found.nanoseconds / 1000;
    return 0;
}
long time(long *into) {
    struct timespec found;
    clock_gettime(0, &found);
    if (into) *into = found.seconds;
    return found.seconds;
}
"""


class WallClock:
    """One for all that are started with ``environ``."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "clock"
        source = folder / "clock.c"
        source.write_text(_SOURCE)
        command = [find_program("gcc"), "-shared", "-fPIC", "-nostdlib", "-O1", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        self.environ = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Ahead of the real one by so much, or behind."""
        file = os.open(self._file, os.O_WRONLY)
        try:
            os.pwrite(file, struct.pack("l", seconds), 0)
        finally:
            os.close(file)
