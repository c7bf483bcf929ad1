"""python -m experiments.bridge.report results/<budget>: draws the figures and writes the report, from the tables."""

from bsnn.results.cli import run
from experiments.bridge.report.section import main

if __name__ == "__main__":
    run(main)
