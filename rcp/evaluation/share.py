"""Which share of the work is this process's, where several do it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from torch import distributed

from rcp.errors import UserError
from rcp.quoting import quoted

PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Share:
    """Process ``rank`` of ``ranks``, number ``local_rank`` on its machine; all from 0."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process puts together what all have done, and reports it."""
        return self.rank == 0

    def of(self, numbers: Sequence[int]) -> list[int]:
        """Those of ``numbers`` that are this process's."""
        return [number for number in numbers if number % self.ranks == self.rank]

    def meet(self) -> None:
        """Return when all processes that torchrun started have come here.

        So long the files that they share must stay: one that comes late would wait for what is
        gone. Without torchrun's MASTER_ADDR nothing tells where to meet, and nobody waits.
        """
        if self.ranks > 1 and "MASTER_ADDR" in os.environ:
            distributed.init_process_group("gloo", timeout=PATIENCE)
            distributed.destroy_process_group()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Share":
        """As torchrun says it by RANK, WORLD_SIZE and LOCAL_RANK; the whole where it does not.

        Raises ``UserError`` for what cannot be.
        """
        if "WORLD_SIZE" not in environment:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        said = [environment.get(name, "0") for name in names]
        if not all(value.isdecimal() for value in said) or int(said[0]) >= int(said[1]):
            raise UserError(
                f"The environment says {', '.join(map('='.join, zip(names, map(quoted, said))))}: "
                "give every process a RANK of its own below WORLD_SIZE, as torchrun does, or unset "
                "all three."
            )
        return cls(*map(int, said))
