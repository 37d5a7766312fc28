"""A pipe that nobody reads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe with no room for one more byte: who writes to it waits for ever."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        for size in (4096, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x" * size)
        os.set_blocking(writer, True)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)
