"""The fencing token of a standby group: a number in MySQL that rises with each leadership.

Redis cannot give it, since its counters can go back when a failover loses writes.
"""

from pymysql.constants import ER

from restart_guard.config.options import MySql
from restart_guard.mysql import client as mysql_client

_TABLE = (
    "CREATE TABLE IF NOT EXISTS guard_epoch (name VARCHAR(100) NOT NULL PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, "
    "holder VARCHAR(255) NOT NULL, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) "
    "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
)


def claim(settings: MySql, group: str, holder: str) -> int:
    """The next number, which now belongs to the holder. Raises DeliveryError."""
    what = f"{settings.database}.guard_epoch at {mysql_client.place(settings)}"
    advice = dict.fromkeys(mysql_client.DENIED, ": the user needs CREATE once, and SELECT, INSERT and UPDATE.")
    connection = mysql_client.connect(settings, what, advice)
    try:
        with mysql_client.translate_errors(what, advice), connection.cursor() as cursor:
            try:
                cursor.execute("SELECT 1 FROM guard_epoch LIMIT 1")
            except connection.ProgrammingError as error:
                if error.args[0] != ER.NO_SUCH_TABLE:
                    raise
                cursor.execute(_TABLE)
            # One statement, so that two never get the same number.
            cursor.execute(
                "INSERT INTO guard_epoch (name, epoch, holder) VALUES (%s, LAST_INSERT_ID(1), %s) "
                "ON DUPLICATE KEY UPDATE epoch = LAST_INSERT_ID(epoch + 1), holder = VALUES(holder)",
                (group, holder),
            )
            cursor.execute("SELECT LAST_INSERT_ID()")
            row = cursor.fetchone()
            connection.commit()
    finally:
        connection.close()
    return int(row[0]) if row else 0
