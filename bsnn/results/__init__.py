"""From records to tables, statistics and verdicts. Nothing here trains."""
