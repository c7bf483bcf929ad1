"""Tables, statistics and verdicts from records. Nothing here trains."""
