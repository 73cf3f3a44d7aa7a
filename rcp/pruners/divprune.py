"""DivPrune: the most diverse tokens."""

from torch import Tensor

from rcp.choosing.greedy import cosines, greedy, max_min
from rcp.choosing.view import View
from rcp.pruners.base import Pruner


class DivPrunePruner(Pruner):
    """Max-min diversity of the projected tokens (DivPrune's code, CVPR 2025).

    Distance is 1 - cosine. First the token whose nearest neighbour is farthest, then again and
    again the one whose nearest kept token is. No text, no attention. Published at a ratio of
    0.098 before the decoder.
    """

    name = "divprune"
    paper = "arXiv 2503.02175"
    needs = frozenset({"projected"})
    reads_question = False

    def select(self, view: View, counts: Tensor) -> Tensor:
        distance = cosines(view.given("projected")).neg_()  # but for a constant
        return greedy(*max_min(distance, view.alive), view.alive, counts, view.limit(counts))
