"""The model `rcp` of lmms-eval, called as lmms-eval calls it.

Where lmms-eval is not installed, through a stand-in of its interface: `make test-harness` runs all
of this on the real one.
"""

import configparser
import importlib.util
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import rcp
from rcp.base_model.loading import load_base
from rcp.harness.asked import of_messages, of_text
from rcp.harness.settings import LONGEST, settings
from tests.documents import ROOT
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS, randomised

pytest_plugins = ["tests.training_fixtures"]

NEW_TOKENS = 4
GREEDY = {"max_new_tokens": NEW_TOKENS, "temperature": 0, "until": ["\n\n"]}
COLOURS = [(200, 30, 30), (20, 90, 220), (240, 240, 60)]


class Lmms(ABC):
    """As the base class of lmms-eval 0.7.3, in what it asks of its subclasses."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...

    @property
    def rank(self):
        return self._rank


@dataclass
class GenerationResult:
    text: Any
    token_counts: Any = None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Instance:
    args: tuple[Any, ...]
    resps: list[Any] = field(default_factory=list)


STAND_IN = {
    "lmms_eval": {},
    "lmms_eval.api": {},
    "lmms_eval.api.instance": {"GenerationResult": GenerationResult},
    "lmms_eval.api.model": {"lmms": Lmms},
    "lmms_eval.models": {},
    "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
}


@pytest.fixture(autouse=True)
def lmms_eval(monkeypatch):
    if importlib.util.find_spec("lmms_eval"):
        yield
        return
    for name, content in STAND_IN.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "rcp.harness.adapter", raising=False)
    yield
    sys.modules.pop("rcp.harness.adapter", None)


def classes():
    """What the entry point of setup.cfg leads to, by protocol."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, target = setup["options.entry_points"]["lmms_eval.models"].strip().partition(" = ")
    module, _, function = target.partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert name == manifest.model_id == "rcp"
    paths = {"simple": manifest.simple_class_path, "chat": manifest.chat_class_path}
    found = {}
    for protocol, path in paths.items():
        module, _, name = path.rpartition(".")
        found[protocol] = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture(scope="module")
def plugin_folder(base_folder, tmp_path_factory):
    model, _ = load_base(str(base_folder), "float32")
    stages = [rcp.StageSpec(at, 0.5, "rcp", dict(RCP_ARGUMENTS)) for at in (1, 2)]
    repair = rcp.RepairSpec([3], "film", FILM_ARGUMENTS)
    spec = rcp.PluginSpec(stages, repair, budgets=[0.3, 0.8])
    folder = tmp_path_factory.mktemp("plugins") / "plugin"
    rcp.save_plugin(randomised(rcp.Plugin.for_model(spec, model)), folder)
    return folder


@pytest.fixture(params=["full", "plugin"])
def named(request, base_folder, plugin_folder):
    """Arguments of the model, without a plug-in and with one."""
    given = {"pretrained": str(base_folder)}
    return given if request.param == "full" else given | {"plugin": str(plugin_folder)}


def attached(named):
    """The same model, loaded and attached by hand."""
    model, processor = load_base(named["pretrained"], "float32")
    handle = None
    if "plugin" in named:
        handle = rcp.attach(model, rcp.load_plugin(named["plugin"]), budget=named.get("budget"))
    return model, processor, handle


def image(number=0):
    return Image.new("RGB", (20, 24), COLOURS[number])


QUESTIONS = ["what is the red ?", "how many ?", "is the dark red ?", "what ?", "how is the red ?"]
DOCUMENTS = [{"question": text, "image": n % 3} for n, text in enumerate(QUESTIONS)]
DOCUMENTS[3] |= {"image": None}


def visuals(document):
    return [] if document["image"] is None else [image(document["image"])]


def messages(document):
    shown = [{"type": "image", "url": one} for one in visuals(document)]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": document["question"]}]}]


def harness(protocol, named, documents=DOCUMENTS, **more):
    model = classes()[protocol](**named, **more)
    model.task_dict = {"scenes": {"test": documents}}
    return model


def requests(protocol, documents=DOCUMENTS, options=(GREEDY,)):
    """One request a document, as the tasks of lmms-eval make them."""
    found = []
    for number, document in enumerate(documents):
        wanted = dict(options[number % len(options)])
        named = (number, "scenes", "test")
        if protocol == "chat":
            found.append(Instance(("", messages, wanted, *named)))
        else:
            found.append(Instance((document["question"], wanted, visuals, *named)))
    return found


def inputs_of(processor, prompt, images):
    return processor(text=prompt, images=images or None, return_tensors="pt")


def answer_by_hand(model, processor, prompt, images, length=NEW_TOKENS):
    inputs = inputs_of(processor, prompt, images)
    tokens = model.generate(**inputs, max_new_tokens=length, do_sample=False, pad_token_id=0)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True)


def prompt_of(document):
    shown = "" if document["image"] is None else "<image>\n"
    return f"USER: {shown}{document['question']} ASSISTANT:"


@pytest.mark.parametrize("batch_size", [1, 2, "5"])
@pytest.mark.parametrize("protocol", ["simple", "chat"])
def test_answers_are_those_of_generate(protocol, named, batch_size):
    """Batches of any size, of prompts with and without an image, of one or two kinds."""
    model, processor, _ = attached(named)
    by_hand = [
        answer_by_hand(model, processor, prompt_of(one), visuals(one), NEW_TOKENS - n % 2)
        for n, one in enumerate(DOCUMENTS)
    ]
    assert len(set(by_hand)) > 1
    options = [GREEDY, GREEDY | {"max_new_tokens": NEW_TOKENS - 1}]
    rcp_model = harness(protocol, named, batch_size=batch_size, device="cpu", dtype="float32")
    assert rcp_model.generate_until(requests(protocol, options=options)) == by_hand


def test_the_plugin_changes_something_and_its_budget_too(base_folder, plugin_folder):
    """Else the tests beside this one could not see whether it is attached."""
    asked = of_text(QUESTIONS[0], [image()], "here")
    found = []
    for more in ({}, {"plugin": str(plugin_folder)}, {"plugin": str(plugin_folder), "budget": 5}):
        named = {"pretrained": str(base_folder), **more}
        found.append(harness("chat", named).answerer.likelihoods([asked], ["red"])[0])
    assert len({round(one.log_probability, 4) for one in found}) == 3


def test_the_base_is_the_one_that_the_plugin_names(base_folder, plugin_folder):
    named = {"plugin": str(plugin_folder)}
    assert rcp.load_plugin(plugin_folder).base.name_or_path == str(base_folder)
    found = harness("simple", named).generate_until(requests("simple"))
    assert found == harness("simple", named | {"pretrained": str(base_folder)}).generate_until(
        requests("simple")
    )


SEVERAL_TURNS = [
    {"role": "system", "content": [{"type": "text", "text": "how is the red"}]},
    {"role": "user", "content": [
        {"type": "image", "url": image(0)},
        {"type": "text", "text": "what is the red ?"},
        {"type": "image", "url": image(1)},
    ]},
    {"role": "assistant", "content": [{"type": "text", "text": "dark"}]},
    {"role": "user", "content": [{"type": "image", "url": image(2)},
                                 {"type": "text", "text": "how many ?"}]},
]
SEVERAL_TURNS_PROMPT = (
    " ASSISTANT: how is the redUSER: <image>\nwhat is the red ?<image>\n ASSISTANT: dark</s>"
    "USER: <image>\nhow many ? ASSISTANT:"
)


def test_a_conversation_of_several_turns_with_a_system_and_several_images(named):
    model, processor, _ = attached(named)
    images = [image(n) for n in range(3)]
    by_hand = answer_by_hand(model, processor, SEVERAL_TURNS_PROMPT, images)
    request = Instance(("", lambda document: SEVERAL_TURNS, GREEDY, 0, "scenes", "test"))
    short = requests("chat")[0]
    found = harness("chat", named, batch_size=2).generate_until([request, short])
    assert found == [by_hand, answer_by_hand(model, processor, prompt_of(DOCUMENTS[0]), [image()])]


@pytest.mark.parametrize("protocol", ["simple", "chat"])
def test_rounds_go_on_until_the_task_ends_them(protocol, named):
    """The second round asks by the first answer; the task keeps what it returns."""
    model, processor, _ = attached(named)
    first = answer_by_hand(model, processor, prompt_of(DOCUMENTS[0]), [image()])
    second = answer_by_hand(model, processor, f"USER: {first} how ? ASSISTANT:", [])
    told = []

    def next_round(document, round_idx=None, previous_output=None, previous_round_info=None, **_):
        if round_idx is None:
            return messages(document)
        told.append((round_idx, previous_output, previous_round_info))
        ended, text = round_idx == 2, f"{previous_output[0]} how ?"
        if protocol == "simple":
            return None if ended else [], text, ended, previous_output, {"round": round_idx}
        turn = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return None if ended else turn, ended, previous_output, {"round": round_idx}

    named_document = (0, "scenes", "test")
    if protocol == "chat":
        request = Instance(("", next_round, GREEDY, *named_document))
    else:
        request = Instance((QUESTIONS[0], GREEDY, visuals, next_round, *named_document))
    found = harness(protocol, named).generate_until_multi_round([request])
    assert found == [[first, second]]
    assert told == [(1, [first], None), (2, [first, second], {"round": 1})]


# -- log-probabilities --------------------------------------------------------------------------


def log_probability_by_hand(model, processor, prompt, images, continuation):
    """The prompt as a prefill, then token by token on its cache, as a generation goes."""
    inputs = inputs_of(processor, prompt, images)
    tokens = processor.tokenizer(continuation, add_special_tokens=False).input_ids
    total, greedy = 0.0, True
    with torch.no_grad():
        out = model(**inputs, use_cache=True)
        mask = inputs["attention_mask"]
        for token in tokens:
            scores = out.logits[0, -1].log_softmax(-1)
            total += scores[token].item()
            greedy &= scores.argmax().item() == token
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            out = model(input_ids=torch.tensor([[token]]), attention_mask=mask,
                        past_key_values=out.past_key_values, use_cache=True)
    return total, greedy


CONTINUATIONS = [" dark", " two red dark", " is", " how many", " the red"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_log_probability_is_that_of_token_by_token(named, batch_size):
    model, processor, _ = attached(named)
    greedy = answer_by_hand(model, processor, prompt_of(DOCUMENTS[0]), [image()], 1)
    continuations = [f" {greedy}", *CONTINUATIONS[1:]]
    by_hand = [
        log_probability_by_hand(model, processor, prompt_of(one), visuals(one), text)
        for one, text in zip(DOCUMENTS, continuations)
    ]
    asking = [
        Instance((one["question"], text, visuals, number, "scenes", "test"))
        for number, (one, text) in enumerate(zip(DOCUMENTS, continuations))
    ]
    found = harness("simple", named, batch_size=batch_size).loglikelihood(asking)
    for (value, is_greedy), (expected, expected_greedy) in zip(found, by_hand):
        assert value == pytest.approx(-expected, abs=1e-4) and is_greedy == expected_greedy
    assert found[0][1] and not all(is_greedy for _, is_greedy in found)


def test_the_scorer_gets_the_pair_and_the_smallest_is_the_most_probable(named):
    """lmms-eval unwraps results of its own kind alone, and picks the smallest value."""
    choices = ["dark", "two", "red", "many"]
    asking = [
        Instance((QUESTIONS[0], f" {choice}", visuals, 0, "scenes", "test")) for choice in choices
    ]
    found = harness("simple", named, batch_size=4).loglikelihood(asking)
    unwrapped = importlib.import_module("lmms_eval.api.instance").GenerationResult
    assert all(isinstance(one, unwrapped) and one.text == tuple(one) for one in found)
    model, processor, _ = attached(named)
    by_hand = [
        log_probability_by_hand(model, processor, prompt_of(DOCUMENTS[0]), [image()], choice)[0]
        for choice in choices
    ]
    assert min(range(4), key=lambda n: found[n][0]) == max(range(4), key=lambda n: by_hand[n])


def test_a_target_may_be_a_function_and_a_context_empty(named):
    model, processor, _ = attached(named)
    asking = [
        Instance((QUESTIONS[0], lambda document: document["question"][:4], visuals, 0, "scenes",
                  "test")),
        Instance(("", "red")),
    ]
    found = harness("simple", named).loglikelihood(asking)
    prompts = [(prompt_of(DOCUMENTS[0]), [image()], "what"), ("USER:  ASSISTANT:", [], "red")]
    for (value, _), given in zip(found, prompts):
        expected, _ = log_probability_by_hand(model, processor, *given)
        assert value == pytest.approx(-expected, abs=1e-4)


def test_an_empty_continuation_is_certain(named):
    asked = [of_text(QUESTIONS[0], [image()], "here")] * 2
    found = harness("simple", named).answerer.likelihoods(asked, ["", " red"])
    assert found[0] == (0.0, True) and found[1].log_probability < 0


# -- how an answer is generated ------------------------------------------------------------------


@pytest.mark.parametrize(("given", "options"), [
    ({}, {"max_new_tokens": LONGEST, "num_beams": 1, "do_sample": False}),
    ({"temperature": 0, "top_p": None, "do_sample": True},
     {"max_new_tokens": LONGEST, "num_beams": 1, "do_sample": False}),
    ({"temperature": 0.7, "top_p": 0.9, "do_sample": False, "max_new_tokens": 3},
     {"max_new_tokens": 3, "num_beams": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9}),
    ({"do_sample": True, "num_beams": 2},
     {"max_new_tokens": LONGEST, "num_beams": 2, "do_sample": True}),
    ({"image_aspect_ratio": "original", "until": "a", "repetition_penalty": 1.1, "top_k": 5},
     {"max_new_tokens": LONGEST, "num_beams": 1, "do_sample": False, "repetition_penalty": 1.1}),
])
def test_options_of_generate(given, options):
    before = dict(given)
    assert settings(given).options == options
    assert given == before  # tasks share one dictionary among their requests


@pytest.mark.parametrize(("until", "answer", "left"), [
    (["\n\n"], "two\n\nred", "two"),
    ("red", "two red dark red", "two "),
    (["dark", "red"], "two red dark", "two "),
    (["many"], "two red", "two red"),
    ([""], "two", "two"),
    (None, "two", "two"),
    ([], "", ""),
])
def test_an_answer_ends_before_the_first_stop(until, answer, left):
    assert settings({"until": until}).cut(answer) == left


def test_stops_reach_the_answers(named):
    whole = harness("chat", named).generate_until(requests("chat"))
    stop = next(answer for answer in whole if " " in answer).split()[-1]
    stopped = requests("chat", options=[GREEDY | {"until": stop}])
    cut = harness("chat", named).generate_until(stopped)
    assert cut == [answer.partition(stop)[0] for answer in whole] and cut != whole


def test_a_temperature_is_passed_on(named):
    hot = GREEDY | {"temperature": 50.0}
    model = harness("simple", named)
    torch.manual_seed(0)
    drawn = [tuple(model.generate_until(requests("simple", options=[hot]))) for _ in range(3)]
    assert len(set(drawn)) > 1


# -- what is shown ------------------------------------------------------------------------------

SHOWN = {"type": "image"}


@pytest.mark.parametrize(("text", "images", "content"), [
    ("what ?", 2, [SHOWN, SHOWN, "what ?"]),
    ("<image>\nwhat ?", 1, [SHOWN, "what ?"]),
    ("is <image> in <image> ?", 2, ["is", SHOWN, "in", SHOWN, "?"]),
    ("is <image> ?", 2, [SHOWN, SHOWN, "is", "?"]),
    ("is <image> ?", 0, ["is", "?"]),
    (" what ? ", 0, [" what ? "]),
    ("", 1, [SHOWN]),
])
def test_images_stand_where_the_text_says(text, images, content):
    asked = of_text(text, [image()] * images, "here")
    expected = [{"type": "text", "text": one} if isinstance(one, str) else one for one in content]
    assert asked.messages == [{"role": "user", "content": expected}]
    assert len(asked.images) == images


def test_a_message_may_be_plain_text_and_an_image_a_file(tmp_path):
    image(1).save(tmp_path / "one.png")
    given = [{"role": "system", "content": "how"},
             {"role": "user", "content": [{"type": "image", "url": str(tmp_path / "one.png")}]}]
    asked = of_messages(given, "here")
    assert asked.messages == [
        {"role": "system", "content": [{"type": "text", "text": "how"}]},
        {"role": "user", "content": [SHOWN]},
    ]
    assert asked.images[0].mode == "RGB" and asked.images[0].getpixel((0, 0)) == COLOURS[1]


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "told"), [
    ({"typo": 1}, "takes no argument 'typo'"),
    ({"batch_size": "auto"}, "--batch_size is auto"),
    ({"batch_size": 0}, "--batch_size is 0"),
    ({"dtype": "float8"}, "dtype is 'float8': give one of auto"),
    ({"budget": 5}, "with plugin=DIR"),
    ({"budget": "many", "plugin": "{plugin}"}, "budget is 'many'"),
    ({"budget": 1, "plugin": "{plugin}"}, "trained for"),
    ({"pretrained": None}, "neither pretrained=MODEL nor"),
    ({"pretrained": "{plugin}"}, "cannot be loaded"),
    ({"plugin": "{base}"}, "plugin.json"),
])
def test_arguments_that_cannot_be(given, told, base_folder, plugin_folder):
    places = {"base": base_folder, "plugin": plugin_folder}
    named = {"pretrained": str(base_folder)} | {
        name: value.format(**places) if isinstance(value, str) else value
        for name, value in given.items()
    }
    with pytest.raises(rcp.UserError, match=told):
        classes()["chat"](**named)


@pytest.mark.parametrize(("content", "told"), [
    ({"type": "video", "url": "film.mp4"}, "document 0 of task 'scenes' holds 'video'"),
    ({"type": "image", "url": "lost.png"}, "document 0 of task 'scenes' gives 'lost.png'"),
    ({"type": "image", "url": b"no image"}, "neither one of Pillow nor a file"),
    ({"type": "image", "url": "setup.cfg"}, "'setup.cfg' of the document 0 .* cannot be opened"),
])
def test_a_document_that_cannot_be_shown_is_named(content, told, base_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    turn = [{"role": "user", "content": [content]}]
    request = Instance(("", lambda document: turn, GREEDY, 0, "scenes", "test"))
    with pytest.raises(rcp.UserError, match=told):
        harness("chat", {"pretrained": str(base_folder)}).generate_until([request])


def test_what_a_template_refuses_is_named(base_folder):
    model = harness("chat", {"pretrained": str(base_folder)})
    model.answerer.processor.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(rcp.UserError, match=r"document 0 of task 'scenes' is refused.*such role"):
        model.generate_until(requests("chat"))


def test_a_start_of_lmms_eval_waits_for_no_torch():
    """It asks every entry point for its manifest, whatever model is meant."""
    code = "import sys, rcp.harness.manifest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(ROOT))
    assert done.stdout.strip() == "False"
