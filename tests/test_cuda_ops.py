"""No operation is asked for that CUDA is not known to have."""

import pytest
import torch

from tests.cuda_ops import LIST, Inventory, listed, record
from tests.cuda_workloads import BRIEF, LONG

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    "name", [*BRIEF, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]
)
def test_cuda_has_what_the_package_asks_for(name):
    known = listed()
    unknown = {one: place for one, place in record(name).items() if one not in known}
    assert not unknown, "\n".join([
        f"{LIST.name} does not say that CUDA has these:",
        *(f"  {one}, asked for by {place}" for one, place in sorted(unknown.items())),
        "Look each up as that file says. If CUDA has it, run `python -m tests.cuda_ops --write`;",
        "if not, use another operation.",
    ])


def test_the_list_is_sorted_and_without_doubles():
    lines = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines)) and len(listed()) == len(lines)


def test_only_what_the_package_asks_for_is_recorded():
    from rcp.choosing.selection import top_k

    scores, weight = torch.rand(1, 4), torch.ones(1, 4, requires_grad=True)
    with Inventory("cpu") as inventory:
        scores.erfinv()
        top_k(scores, torch.ones(1, 4, dtype=torch.bool), torch.tensor([2]))
        (weight * scores).sum().backward()
    assert not any("erfinv" in one or "aten.sum" in one for one in inventory.asked)
    assert inventory.asked["aten.sort.stable float32"].startswith("rcp/choosing/selection.py:")
    assert inventory.asked["aten.mul.Tensor float32"] == "the backward pass"
