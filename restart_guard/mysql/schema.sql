-- The table that `restart-guard init-db` makes. The first six columns are those of the table that users already have;
-- a row written by another program may leave the others NULL.
CREATE TABLE IF NOT EXISTS `{table}` (
  task_id             INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  task_description    VARCHAR(255),
  task_command        VARCHAR(255),
  task_status         ENUM('成功','失败'),
  task_execution_time DATETIME COMMENT 'local time of the host',
  log_path            VARCHAR(255),
  run_id              CHAR(36) CHARACTER SET ascii COLLATE ascii_bin COMMENT 'makes a resend harmless',
  attempts            SMALLINT UNSIGNED COMMENT 'restart attempts',
  duration            DECIMAL(12,3) COMMENT 'seconds',
  host                VARCHAR(255),
  detail              TEXT,
  fencing_token       BIGINT UNSIGNED COMMENT 'of the leading host of a standby group',
  UNIQUE KEY uq_run_id (run_id),
  KEY ix_execution_time (task_execution_time)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Beside a table without a unique run_id: filled in the transaction that inserts the row, so that the row arrives once.
CREATE TABLE IF NOT EXISTS restart_guard_applied (
  run_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  at     DATETIME NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
