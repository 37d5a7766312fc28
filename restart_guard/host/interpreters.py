"""Which word of an interpreter's command line is its script. Pure.

An option that takes a value in a word of its own would otherwise make the value look like the script. The options are
those of the manuals: python(1), node(1), java(1), php(1), perl(1), ruby(1), lua(1), sh(1p) and bash(1).
"""

from collections.abc import Sequence
from typing import NamedTuple


class _Interpreter(NamedTuple):
    """``with_value``: options whose value is the next word; ``script``: whose value is the script; ``code``: after
    which there is no script, but code or a module."""

    with_value: frozenset[str] = frozenset()
    script: frozenset[str] = frozenset()
    code: frozenset[str] = frozenset()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHELL = _Interpreter(_words("-o +o -O +O --rcfile --init-file"), code=_words("-c"))
_JAVA = _Interpreter(
    _words(
        "-cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules --add-opens --add-exports"
        " --add-reads --limit-modules --patch-module --enable-native-access --source"
    ),
    script=_words("-jar"),
    code=_words("-m --module"),
)
_NODE = _Interpreter(
    _words(
        "-r --require --import --loader --experimental-loader -C --conditions --icu-data-dir --openssl-config"
        " --redirect-warnings --title --diagnostic-dir --cpu-prof-dir --heap-prof-dir"
    ),
    code=_words("-e --eval -p --print -pe"),
)
_INTERPRETERS = {
    "python": _Interpreter(_words("-W -X --check-hash-based-pycs"), code=_words("-c -m")),
    "pypy": _Interpreter(_words("-W -X --jit"), code=_words("-c -m")),
    "node": _NODE,
    "nodejs": _NODE,
    "java": _JAVA,
    "php": _Interpreter(
        _words("-c --php-ini -d --define -z --zend-extension -t --docroot"),
        script=_words("-f --file"),
        code=_words("-r --run -B --process-begin -R --process-code -F --process-file -E --process-end -S --server"),
    ),
    "perl": _Interpreter(_words("-I"), code=_words("-e -E")),
    "ruby": _Interpreter(_words("-I -r -C -E --encoding"), code=_words("-e")),
    "lua": _Interpreter(_words("-l"), code=_words("-e")),
    **dict.fromkeys(("sh", "bash", "dash", "ksh", "zsh"), _SHELL),
}
_OTHER = _Interpreter(_words("-W -X"), code=_words("-c -m"))


def script_index(runner: str, argv: Sequence[str]) -> int | None:
    """The index of the script in a command line; None if it has none. ``runner`` is the interpreter's name without
    its version."""
    known = _INTERPRETERS.get(runner, _OTHER)
    index = 1
    while index < len(argv):
        word = argv[index]
        if word in known.script:
            return index + 1 if index + 1 < len(argv) else None
        if word in known.code:
            return None
        if word == "--":
            return index + 1 if index + 1 < len(argv) else None
        if not word.startswith("-") and not (word.startswith("+") and word in known.with_value):
            return index
        index += 2 if word in known.with_value else 1
    return None
