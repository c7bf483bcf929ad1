"""The page that shows a budget's results in a browser."""
