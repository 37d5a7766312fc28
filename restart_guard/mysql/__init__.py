"""The MySQL server and the table task_monitor."""
