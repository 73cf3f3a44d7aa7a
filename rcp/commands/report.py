"""Write evaluations as one web page: figures, charts, and what survives of each image."""

import argparse
from pathlib import Path

from rcp.evaluation.options import REPORT
from rcp.evaluation.report.page.page import write_report
from rcp.refusals import refuse_no_file


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULTS",
        help="files that evaluate.py wrote with --output; what it wrote beside them is found there")
    add("--diagnosis", type=Path, metavar="JSON",
        help="file that python -m rcp diagnose wrote: adds how far answer rows move, before and "
             "after repair")
    add("--output", type=Path, required=True, metavar="DIR",
        help=f"folder in which {REPORT} is written")


def run(options: argparse.Namespace) -> None:
    refuse_no_file(options.output / REPORT, "--output")
    print(f"Written to {write_report(options.results, options.output, options.diagnosis)}")
