"""results/<budget>/report.md, section by section."""
