"""Commands that make tables, figures and reports from records, and those that carry and check records."""

import experiments  # noqa: F401  (opens standard streams that were closed)
