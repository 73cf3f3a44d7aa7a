"""InfographicVQA: asked and scored as DocVQA, about infographics."""

from rcp.evaluation.sets.base import Hub
from rcp.evaluation.sets.docvqa import DocVqa


class InfoVqa(DocVqa):
    """The validation split."""

    name = "infovqa"
    title = "InfographicVQA, validation"
    hub = Hub("lmms-lab/DocVQA", "validation", "InfographicVQA")
    rows = 2_801
    max_new_tokens = 32
