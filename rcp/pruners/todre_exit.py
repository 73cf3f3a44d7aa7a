"""ToDRE, second stage: all visual tokens go once text and image no longer look at each other."""

from torch import Tensor

from rcp.choosing.schedule import Published
from rcp.choosing.selection import top_k
from rcp.choosing.view import View, mean_over_question, total_attention
from rcp.pruners.base import Pruner


class ToDREExitPruner(Pruner):
    """Nothing, or everything: by how much text and image attend to each other (ToDRE's paper).

    r_tv is the share of the question's attention that goes to the image, r_vt the share of the
    image's that goes to text, both mean over heads and rows of the stage's own layer. If both are
    below ``tau`` no visual token of the sample stays; else the stage's count does, by the
    question's attention, which at the ratio of the stage before is all there are. The paper puts
    it at 7/8 of the depth and tells tau in an appendix we have not seen: 0.02 is ours, to be
    calibrated. Its first stage is a pruner of its own; schedules put the two together.
    """

    name = "todre_exit"
    paper = "arXiv 2505.18757"
    needs = frozenset({"attention"})
    may_drop_all = True
    published = (Published("LLaVA-NeXT-7B", 32, (28,), (1.0,)),)

    def __init__(self, hidden_size: int, *, tau: float = 0.02) -> None:
        super().__init__(hidden_size)
        self.tau = tau

    def forward(self, view: View) -> Tensor:
        return mean_over_question(view.blocks("attention")("question"), view.question_valid)

    def select(self, view: View, counts: Tensor) -> Tensor:
        scores = self(view)
        text_to_image = scores.sum(1)
        # a row's attention adds up to one: what does not go to the image goes to text
        visual = view.blocks("attention")("visual")
        rows = view.alive.sum(1).clamp(min=1) * visual.shape[1]
        image_to_text = 1 - total_attention(visual).sum(1) / rows
        apart = (text_to_image < self.tau) & (image_to_text < self.tau)
        return top_k(scores, view.alive, counts) & ~apart[:, None]
