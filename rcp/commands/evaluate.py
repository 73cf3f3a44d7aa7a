"""Evaluate a plug-in beside the full model and controls at the same cost.

Answers questions with the tokens physically dropped, prints accuracy and cost, and writes the rows
as JSON and every answer as Parquet.
"""

import argparse

from rcp.evaluation import options as evaluation


def configure(parser: argparse.ArgumentParser) -> None:
    evaluation.configure(parser)


def run(options: argparse.Namespace) -> None:
    evaluation.check(options)
    from rcp.evaluation.cli import evaluate  # loads torch, which --help can do without

    evaluate(options)
