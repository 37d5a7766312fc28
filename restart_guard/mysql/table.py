"""The columns, labels, widths and character sets of a ``task_monitor`` table, and how a row fits into them."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from restart_guard.config.options import COLUMNS, MySql
from restart_guard.errors import DeliveryError

# Label pairs for success and failure that an ENUM may have, compared without case.
_LABELS = (
    ("成功", "失败"),
    ("success", "failure"),
    ("success", "failed"),
    ("success", "fail"),
    ("succeeded", "failed"),
    ("ok", "failed"),
    ("ok", "fail"),
    ("ok", "error"),
    ("1", "0"),
)
_CODECS = {"latin1": "cp1252", "ascii": "ascii", "gbk": "gbk", "gb2312": "gb2312", "gb18030": "gb18030", "big5": "big5"}
_NUMBERS = {"tinyint", "smallint", "mediumint", "int", "bigint", "bit", "boolean"}


class Column(NamedTuple):
    name: str
    kind: str
    full_kind: str
    length: int | None
    charset: str | None

    def fit(self, value: object) -> object:
        """A text cut to the column's length and limited to its character set; other values unchanged."""
        if not isinstance(value, str):
            return value
        if self.charset in ("utf8", "utf8mb3"):
            value = "".join(character if character <= "\uffff" else "?" for character in value)
        elif self.charset in _CODECS:
            codec = _CODECS[self.charset]
            value = value.encode(codec, "replace").decode(codec)
        if self.length is None or self.size(value) <= self.length:
            return value
        mark = "..." if self.charset in _CODECS else "…"
        if self.length <= self.size(mark):
            return self.cut(value, self.length)
        return self.cut(value, self.length - self.size(mark)) + mark

    def size(self, text: str) -> int:
        """In the unit of ``length``: bytes for TEXT and its kin, else characters."""
        return len(text.encode(self._codec)) if self._counts_bytes else len(text)

    def cut(self, text: str, most: int) -> str:
        if not self._counts_bytes:
            return text[: max(0, most)]
        return text.encode(self._codec)[: max(0, most)].decode(self._codec, "ignore")

    @property
    def _counts_bytes(self) -> bool:
        return self.kind.endswith("text")

    @property
    def _codec(self) -> str:
        return _CODECS.get(self.charset or "", "utf-8")


class Row(NamedTuple):
    """A row of ``task_monitor``. ``ok`` stands for the status label, which depends on the table."""

    run_id: str
    ok: bool
    task_description: str
    task_command: str
    task_execution_time: str
    log_path: str
    attempts: int
    duration: float
    host: str
    detail: str
    fencing_token: int | None = None


class Table(NamedTuple):
    """``columns`` maps our names to the columns that exist; ``missing`` are the ones that do not."""

    columns: Mapping[str, Column]
    missing: tuple[str, ...]
    labels: tuple[str | int, str | int]
    transactional: bool
    has_unique_run_id: bool

    def values(self, row: Row) -> dict[str, object]:
        """The row by the table's own column names, each value fitted to its column."""
        ours = row._asdict()
        ours["task_status"] = self.labels[0] if row.ok else self.labels[1]
        fitting = {column.name: (column, ours[own]) for own, column in self.columns.items()}
        return {name: column.fit(value) for name, (column, value) in fitting.items() if value is not None}

    def mark(self, row: Row) -> tuple[str, str]:
        """The column, and the end of its text, that identify a row in a table without a unique key."""
        if "run_id" in self.columns:
            return self.columns["run_id"].name, row.run_id
        return self.columns["task_description"].name, f"#{row.run_id[:13]}"

    def marked(self, row: Row) -> Row:
        """The row with its mark, which must survive the cut to the column's length."""
        if "run_id" in self.columns:
            return row
        _column, mark = self.mark(row)
        column = self.columns["task_description"]
        room = (column.length or 255) - len(mark) - 1
        return row._replace(task_description=f"{column.cut(row.task_description, room)} {mark}".strip())


def read_table(cursor: Any, settings: MySql) -> Table:
    """Read the table's structure. Raises DeliveryError if no row can fit into it."""
    cursor.execute(
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_MAXIMUM_LENGTH, CHARACTER_SET_NAME, IS_NULLABLE, "
        "COLUMN_DEFAULT, EXTRA FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
        (settings.database, settings.table),
    )
    columns_found = cursor.fetchall()
    if not columns_found:
        raise _unfit(settings, "does not exist, or this user may not see it; restart-guard init-db creates it.")
    by_name = {row[0].lower(): Column(row[0], row[1].lower(), row[2], row[3], row[4]) for row in columns_found}
    wanted = {own: settings.columns.get(own, own) for own in COLUMNS}
    for own, column in settings.columns.items():
        if column.lower() not in by_name:
            raise _unfit(settings, f"has no column {column}, which [mysql] columns.{own} names.")
    columns = {own: by_name[column.lower()] for own, column in wanted.items() if column.lower() in by_name}
    columns = {own: column for own, column in columns.items() if own in settings.columns or _can_hold(own, column)}
    if len({column.name for column in columns.values()}) < len(columns):
        raise _unfit(settings, "would get two of our values in one column; fix [mysql] columns.")
    for own in ("task_status", "task_description"):
        if own not in columns:
            raise _unfit(settings, f"has no column {own}; name the right one in [mysql] columns.")
    ours = {column.name for column in columns.values()}
    for column, _, _, _, _, nullable, default, extra in columns_found:
        if nullable == "NO" and default is None and not extra and column not in ours:
            raise _unfit(settings, f"requires a value for {column}, which our rows do not have; give it a default.")
    return Table(
        columns=columns,
        missing=tuple(own for own in COLUMNS if own not in columns),
        labels=_labels(columns["task_status"], settings),
        transactional=_is_transactional(cursor, settings),
        has_unique_run_id="run_id" in columns and _is_unique(cursor, settings, columns["run_id"].name),
    )


def _can_hold(own: str, column: Column) -> bool:
    """Whether a column with one of our names has a type that takes our value. If not, it is the user's own column."""
    is_text = column.kind.endswith(("char", "text"))
    if own == "run_id":
        return is_text and (column.length or 0) >= 36
    if own in ("attempts", "duration", "fencing_token"):
        return is_text or column.kind in _NUMBERS | {"decimal", "float", "double"}
    return own in ("task_status", "task_execution_time") or is_text


def _labels(status: Column, settings: MySql) -> tuple[str | int, str | int]:
    """The labels for success and failure: as configured, else those of the column's own ENUM."""
    labels = re.findall(r"'((?:[^']|'')*)'", status.full_kind) if status.kind == "enum" else []
    labels = [label.replace("''", "'") for label in labels]
    if settings.status_values:
        chosen = (settings.status_values["success"], settings.status_values["failure"])
        if labels and not set(chosen) <= set(labels):
            raise _unfit(settings, f"has only the labels {', '.join(labels)}; fix [mysql] status_values.")
        return _whole(status, chosen, settings)
    if status.kind in _NUMBERS:
        return (1, 0)
    if status.kind != "enum":
        return _whole(status, ("success", "failure"), settings)
    folded = {label.casefold(): label for label in labels}
    for good, bad in _LABELS:
        if good in folded and bad in folded:
            return (folded[good], folded[bad])
    raise _unfit(settings, f"has the labels {', '.join(labels)}; say in [mysql] status_values which is which.")


def _whole(status: Column, labels: tuple[str, str], settings: MySql) -> tuple[str, str]:
    """The labels, if the column stores them unchanged: cut or replaced they would look alike."""
    if any(status.fit(label) != label for label in labels):
        raise _unfit(settings, f"cannot hold the labels {'/'.join(labels)}; choose others in [mysql] status_values.")
    return labels


def _is_transactional(cursor: Any, settings: MySql) -> bool:
    cursor.execute(
        "SELECT e.TRANSACTIONS FROM information_schema.TABLES t JOIN information_schema.ENGINES e "
        "ON e.ENGINE = t.ENGINE WHERE t.TABLE_SCHEMA = %s AND t.TABLE_NAME = %s",
        (settings.database, settings.table),
    )
    row = cursor.fetchone()
    return row is not None and row[0] == "YES"


def _is_unique(cursor: Any, settings: MySql, column: str) -> bool:
    """Whether an index makes this column alone unique."""
    cursor.execute(
        "SELECT MIN(COLUMN_NAME), COUNT(*) FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s "
        "AND TABLE_NAME = %s AND NON_UNIQUE = 0 GROUP BY INDEX_NAME",
        (settings.database, settings.table),
    )
    return any(count == 1 and (name or "").lower() == column.lower() for name, count in cursor.fetchall())


def _unfit(settings: MySql, text: str) -> DeliveryError:
    return DeliveryError(f"The MySQL table {settings.database}.{settings.table} {text}", code="table", permanent=True)
