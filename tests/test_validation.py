"""What is told of a validation."""

from types import SimpleNamespace

from rcp.objectives.exact_match import ExactMatch
from rcp.training.validation import ValidatedTraining


def test_of_a_type_that_no_batch_had_nothing_is_told():
    pruned, full, logged = ExactMatch(["colour", "count"]), ExactMatch(["colour", "count"]), {}
    pruned.update(["red", "blue"], ["red", "green"], ["colour"] * 2)
    full.update(["red", "green"], ["red", "green"], ["colour"] * 2)
    training = SimpleNamespace(
        _pruned=pruned, _full=full, results={"other": 3.0},
        trainer=SimpleNamespace(sanity_checking=False),
        log=lambda name, value, **_: logged.update({name: value.item()}),
    )
    ValidatedTraining.on_validation_epoch_end(training)
    found = {"accuracy": 0.5, "accuracy_colour": 0.5, "full_accuracy": 1, "full_accuracy_colour": 1}
    assert training.results == found | {"other": 3.0}
    assert logged == {f"val/{name}": value for name, value in found.items()}
