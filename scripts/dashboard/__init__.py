"""W&B: a saved view and a report of a budget's runs."""
