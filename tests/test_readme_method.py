"""README's "Add one", lifted from its text, keeps the contract that README promises for it."""

import re
import subprocess
import sys

from tests.documents import ROOT, blocks

MATRIX = ("tests/test_selection.py", "tests/test_methods.py", "tests/test_training_free.py")
CONTRACT = {
    "test_exactly_k_alive_tokens_whatever_the_neighbours": 1,
    "test_masked_and_dropped_agree": 2,
    "test_generate_equals_the_masked_model_and_the_rows_alone": 1,
    "test_exported_without_weights_it_makes_the_same_choice": 1,
}
"""Test → how often it meets a method that may stand at any layer."""


def example() -> str:
    (text,) = [block.text for block in blocks("README.md", "python") if "(Pruner)" in block.text]
    return text


def matrix(folder, text):
    """What pytest says of the method ``text`` in the matrix; registered before collection."""
    (folder / "readme_norm.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "readme_norm",
         *MATRIX, "-k", "norm"],
        capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(folder)}, timeout=600,
    )


def test_the_example_keeps_the_contract(tmp_path):
    ran = matrix(tmp_path, example())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    met = re.findall(r"::(\w+)\[\S*norm\S*\] PASSED", ran.stdout)
    assert {name: met.count(name) for name in CONTRACT} == CONTRACT


def test_the_contract_notices_scores_that_are_rounding(tmp_path):
    """Rows behind an RMSNorm are all as long: the example once ranked them by their last bit."""
    noise = example().replace('view.given("layer_input")', "view.visual")
    assert noise != example()
    ran = matrix(tmp_path, noise)
    assert ran.returncode == 1 and "FAILED" in ran.stdout
