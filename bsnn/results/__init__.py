"""Turn records into tables, statistics and verdicts. Nothing here trains."""
