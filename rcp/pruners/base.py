"""What every method is: a module that scores, or directly selects, visual tokens."""

from typing import ClassVar

from torch import Tensor, nn

from rcp.choosing.schedule import Published
from rcp.choosing.selection import top_k
from rcp.choosing.view import View
from rcp.errors import UserError
from rcp.registry import Registry

PRUNERS = Registry("pruner", "rcp.pruners")


class Pruner(nn.Module):
    """Decides which visual tokens of a :class:`~rcp.choosing.view.View` stay.

    A method sets ``name`` and overrides :meth:`forward`; one that does not rank by a score (a
    diversity method, say) overrides :meth:`select` instead, and one that folds dropped tokens
    into kept ones also :meth:`merge`. ``needs`` names the optional fields of the view it reads,
    ``uses`` those it can do without, ``paper`` its source. Constructor arguments after
    ``hidden_size`` are keyword-only, plain values: they are what a configuration or an exported
    folder holds. ``learned`` marks scores that mean something on their own: z > 0 is "keep".
    ``may_drop_all`` marks a method that may keep nothing of a sample instead of its count.
    ``published`` are schedules of its paper, the usual one first. ``can_be_blind`` marks a method
    with an argument ``blind``, which hides the question from weights that were trained with it;
    ``draws`` one whose choice depends on a draw, which its argument ``seed`` numbers.
    ``reads_question`` False promises that the choice is the same whatever text surrounds an image,
    so that an engine may keep it for other questions. ``wraps``
    marks one around another method, which its argument ``method`` names: when it is made, the
    other's ``needs`` and ``uses`` are added to its own.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    learned: ClassVar[bool] = False
    may_drop_all: ClassVar[bool] = False
    published: ClassVar[tuple[Published, ...]] = ()
    can_be_blind: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    reads_question: ClassVar[bool] = True
    wraps: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.name:
            PRUNERS.register(cls.name, cls)

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    @property
    def ranks(self) -> bool:
        """Whether :meth:`select` keeps what :meth:`forward` scores highest, and nothing else."""
        own = type(self)
        return own.select is Pruner.select and own.forward is not Pruner.forward

    def forward(self, view: View) -> Tensor:
        """Scores (B, N) fp32, higher is kept; values at dead slots are ignored.

        Raises ``UserError`` in a method that selects without scores.
        """
        raise UserError(
            f"The pruner '{self.name}' selects tokens without scoring them one by one, so it has "
            f"no threshold mode and no gradient. Use selection: top_k, or a pruner that scores."
        )

    def select(self, view: View, counts: Tensor) -> Tensor:
        """Exactly ``counts`` (B,) alive slots of each row, or none with ``may_drop_all``: (B, N)
        bool.

        A row's choice must not depend on the other rows, and must be finite on any finite input.
        """
        return top_k(self(view), view.alive, counts, view.each)

    def merge(self, view: View, keep: Tensor) -> Tensor | None:
        """How dropped tokens are folded into the kept ones, None for not at all.

        ``keep`` (B, N) is what :meth:`select` chose; returns weights (B, K, N) fp32, K the largest
        number kept, as :mod:`rcp.choosing.merging` makes them.
        """
        return None
