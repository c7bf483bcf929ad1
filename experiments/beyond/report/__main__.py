"""python -m experiments.beyond.report results/<budget>: draws the figures and writes the report, from the tables."""

from bsnn.results.cli import run
from experiments.beyond.report.section import main

if __name__ == "__main__":
    run(main)
