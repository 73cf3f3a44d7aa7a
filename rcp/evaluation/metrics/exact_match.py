"""Exact match of short answers: it is counted in training, too, and therefore lies below."""

from rcp.evaluation.metrics.answer_metric import METRICS
from rcp.objectives.exact_match import ExactMatch

METRICS.register(ExactMatch.name, ExactMatch)
