"""What stood on the instance is called while a plug-in is attached, and is there again after it."""

import copy
import inspect
import pickle

import pytest
import torch

from rcp import Plugin, PluginSpec, StageSpec, attach
from rcp.attaching.encoder_watch import watching
from rcp.attaching.given_images import ENCODER, encode_images, given_images
from rcp.attaching.stand_in import StandIn
from tests.tiny import attention_spec

WATCHING = PluginSpec([StageSpec(0, 0.5, "cls_attention")])


class Greeter:
    def greet(self, name: str) -> str:
        """Say something."""
        return f"hello {name}"


def loudly(before, name):
    return before(name).upper()


def twice(before, name):
    return before(name) + before(name)


def counted(method):
    """``method`` as a server might wrap it, and the list of its calls."""
    calls = []

    def counting(*args, **kwargs):
        calls.append(kwargs)
        return method(*args, **kwargs)

    return counting, calls


def test_a_stand_in_has_the_signature_and_text_of_the_method():
    host = Greeter()
    StandIn(host, "greet", loudly)
    assert inspect.signature(host.greet) == inspect.signature(Greeter().greet)
    assert host.greet.__doc__ == "Say something." and host.greet("you") == "HELLO YOU"


@pytest.mark.parametrize("order", [(1, 0), (0, 1)], ids=["last first", "first first"])
def test_stand_ins_come_off_in_any_order_and_leave_nothing(order):
    host = Greeter()
    both = [StandIn(host, "greet", loudly), StandIn(host, "greet", twice)]
    assert host.greet("you") == "HELLO YOUHELLO YOU"
    both[order[0]].undo()
    assert host.greet("you") == ("HELLO YOU" if order[0] else "hello youhello you")
    both[order[1]].undo()
    both[order[1]].undo()
    assert not vars(host)


def test_what_stood_on_the_instance_is_called_and_is_there_again():
    host = Greeter()
    host.greet = own = lambda name: f"bye {name}"
    stand_in = StandIn(host, "greet", loudly)
    assert host.greet("you") == "BYE YOU"
    stand_in.undo()
    assert host.greet is own


def test_one_that_others_still_hold_only_passes_on():
    host = Greeter()
    stand_in = StandIn(host, "greet", loudly)
    host.greet, calls = counted(host.greet)
    stand_in.undo()
    assert host.greet("you") == "hello you" and len(calls) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda host: pickle.loads(pickle.dumps(host))])
def test_a_copy_calls_its_own_host(copied):
    host = Greeter()
    stand_in = StandIn(host, "greet", loudly)
    twin = copied(host)
    assert twin.greet.host is twin and twin.greet.before.__self__ is twin
    stand_in.undo()
    assert host.greet("you") == "hello you" and twin.greet("you") == "HELLO YOU"


@torch.no_grad()
def test_a_generate_set_on_the_model_counts_under_a_plugin(tiny_llava, inputs):
    plugin = Plugin.for_model(attention_spec(), tiny_llava)
    own, calls = counted(tiny_llava.generate)
    tiny_llava.generate = own
    with attach(tiny_llava, plugin):
        tiny_llava.generate(**inputs, max_new_tokens=2)
    assert [call["max_new_tokens"] for call in calls] == [2]
    assert tiny_llava.generate is own


@torch.no_grad()
def test_an_encoder_set_on_the_model_counts_under_a_watching_plugin(tiny_llava, inputs):
    plugin, host = Plugin.for_model(WATCHING, tiny_llava), tiny_llava.base_model
    with attach(tiny_llava, plugin):
        expected = tiny_llava(**inputs).logits
    own, calls = counted(host.get_image_features)
    host.get_image_features = own
    with attach(tiny_llava, plugin):
        assert torch.equal(tiny_llava(**inputs).logits, expected)
    assert len(calls) == 1 and vars(host)[ENCODER] is own


@torch.no_grad()
def test_a_watching_plugin_takes_the_features_given(tiny_llava, inputs):
    """And the facts that were taken with them: nothing is encoded a second time."""
    plugin = Plugin.for_model(WATCHING, tiny_llava)
    with attach(tiny_llava, plugin):
        expected = tiny_llava(**inputs).logits
    with watching(tiny_llava, ["vision_cls_attention"]):
        features = encode_images(tiny_llava, inputs)
    tower = tiny_llava.base_model.vision_tower
    with given_images(tiny_llava, features), attach(tiny_llava, plugin):
        hook = tower.register_forward_pre_hook(lambda *_: pytest.fail("encoded again"))
        assert torch.equal(tiny_llava(**inputs).logits, expected)
        hook.remove()
    assert ENCODER not in vars(tiny_llava.base_model)
