"""Commands that make tables, figures and reports from records, and what carries and checks them."""

import experiments  # noqa: F401  (opens standard streams that were closed)
