"""The fencing token of a standby group: a number in MySQL that rises with each leadership.

Redis cannot give it, since its counters can go back when a failover loses writes. A table can be set back too, by a
backup; so the highest number that the group has seen stands in the lease and on each host as well.
"""

from typing import NamedTuple

from pymysql.constants import ER

from restart_guard.config.options import MySql
from restart_guard.mysql import client as mysql_client

_TABLE = (
    "CREATE TABLE IF NOT EXISTS guard_epoch (name VARCHAR(100) NOT NULL PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, "
    "holder VARCHAR(255) NOT NULL, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) "
    "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
)


class Claimed(NamedTuple):
    """A token, and whether the table knew only lower ones than the group had seen: it was restored or dropped."""

    number: int
    was_set_back: bool


def claim(settings: MySql, group: str, holder: str, above: int) -> Claimed:
    """The next number, which now belongs to the holder: higher than all in the table, and than ``above``. Raises
    DeliveryError."""
    what = f"{settings.database}.guard_epoch at {mysql_client.place(settings)}"
    advice = dict.fromkeys(mysql_client.DENIED, ": the user needs CREATE once, and SELECT, INSERT and UPDATE.")
    connection = mysql_client.connect(settings, what, advice)
    try:
        with mysql_client.translate_errors(what, advice), connection.cursor() as cursor:
            try:
                cursor.execute("SELECT epoch FROM guard_epoch WHERE name = %s", (group,))
            except connection.ProgrammingError as error:
                if error.args[0] != ER.NO_SUCH_TABLE:
                    raise
                cursor.execute(_TABLE)
            row = cursor.fetchone()
            known = int(row[0]) if row else 0
            # One statement, so that two never get the same number.
            cursor.execute(
                "INSERT INTO guard_epoch (name, epoch, holder) VALUES (%s, LAST_INSERT_ID(%s + 1), %s) "
                "ON DUPLICATE KEY UPDATE epoch = LAST_INSERT_ID(GREATEST(epoch, %s) + 1), holder = VALUES(holder)",
                (group, above, holder, above),
            )
            cursor.execute("SELECT LAST_INSERT_ID()")
            row = cursor.fetchone()
            connection.commit()
    finally:
        connection.close()
    return Claimed(int(row[0]) if row else 0, was_set_back=known < above)
