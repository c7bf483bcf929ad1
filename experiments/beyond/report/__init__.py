"""The study's section of the report: figures, statements of the sources, their judgement, findings."""
