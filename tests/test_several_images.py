"""Several images in a prompt: whose a text is, and which frame a visual token is of."""

import contextlib

import pytest
import torch

import rcp
from rcp.attaching.forwards import entry, forward, stage
from rcp.backbones import backbone_for
from rcp.backbones.places import broken_rows, frames_of_any_resolution, raster_numbers
from rcp.choosing.several import frame_numbers, image_of_text, prompt_text
from rcp.choosing.tokens import IGNORED, build_token_map
from tests.decoding import family
from tests.families import Sample
from tests.probe import probing
from tests.tiny import IMAGE, tiny_inputs, tiny_llava_model

NEEDS = ("text", "text_image", "text_embeds", "frame_index")


def tokens_of(*rows: str, **known):
    """Of rows such as "_tiitt": padding, text and image columns."""
    image = torch.tensor([[column == "i" for column in row] for row in rows])
    valid = torch.tensor([[column != "_" for column in row] for row in rows])
    return build_token_map(image, valid, **known)


def owners(tokens) -> list[list[int]]:
    text, image = prompt_text(tokens), image_of_text(tokens)
    return [row[real].tolist() for row, real in zip(image, text.valid)]


def test_text_belongs_to_the_image_before_it():
    """With padding on either side, without images, and with nothing behind the last one."""
    tokens = tokens_of("__tiittittt", "tiittittt__", "ttttttttttt", "_iiittttitt", "ttttttttiii")
    assert owners(tokens) == [
        [-1, 0, 0, 1, 1, 1],
        [-1, 0, 0, 1, 1, 1],
        [-1] * 11,
        [0, 0, 0, 0, 1, 1],
        [-1] * 8,
    ]


def test_an_answer_belongs_to_no_image():
    """Whether labels tell where the prompt ends, or the caller does."""
    labels = torch.full((2, 9), IGNORED)
    labels[0, 6:], labels[1, 7:] = 5, 5
    rows = "tittitttt", "titittttt"
    expected = [[-1, 0, 0, 1], [-1, 0, 1, 1, 1]]
    assert owners(tokens_of(*rows, labels=labels)) == expected
    assert owners(tokens_of(*rows, prompt_end=torch.tensor([6, 7]))) == expected


def test_images_without_text_between_own_none():
    """Side by side they are one; where a family numbers what is inside them, it is not text."""
    image = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0]]).bool()
    embeds = torch.arange(12.0).view(1, 12, 1)
    embeds[0, [3, 10]] = 3.0  # breaks: two rows of two, then another image
    tokens = build_token_map(image, torch.ones_like(image))
    places = broken_rows(image, embeds)
    placed = tokens.placed(places.index, places.grid)
    assert placed.image_index.tolist() == [[0, 0, 0, 0, 1, 1]]
    assert owners(placed) == [[-1, -1, 0, 0, 1, 1]]
    assert owners(tokens) == [[-1, 0, 1, 1, 2, 2]]


def test_images_are_frames_and_videos_have_several():
    tokens = tokens_of("tiitiiii", "iit_iiii")
    assert frame_numbers(tokens, None).tolist() == [[0, 0, 1, 1, 1, 1]] * 2
    within = torch.tensor([[9, 0, 0, 9, 0, 0, 1, 1]])
    assert frame_numbers(tokens, within).tolist() == [[0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 3, 3]]


def test_rasters_begin_again_whatever_the_time_says():
    """Frames of 2 x 2, of 1 x 2 and of a single token, which share a time."""
    row = [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    column = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0]
    positions = torch.tensor([[0] * 14, row, column])[:, None]
    frame = raster_numbers(positions)[0]
    assert (frame - frame[0]).tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4, 5]


def test_a_newline_behind_a_video_is_of_its_last_frame():
    """An image of 3 x 3 with its newline, videos of two frames of 2 x 2 with one and without."""
    image = torch.tensor([[column == "i" for column in "t" + "i" * 10 + "t" + "i" * 9 + "tt"],
                          [column == "i" for column in "t" + "i" * 10 + "t" + "i" * 8 + "ttt"]])
    newline = torch.zeros_like(image)
    newline[0, [10, 20]] = newline[1, 10] = True
    found = frames_of_any_resolution(image, newline, side=3, frame_side=2)
    assert found[0][image[0]].tolist() == [0] * 14 + [1] * 5
    assert found[1][image[1]].tolist() == [0] * 14 + [1] * 4


@pytest.mark.parametrize(
    ("name", "frames"), [("video_llava", 2), ("qwen2_vl", 2), ("qwen2_5_vl", 2), ("qwen3_vl", 2),
                         ("llava_onevision", None), ("llava_next_video", None)]
)
def test_frames_of_a_video_are_told_apart(name, frames):
    """All of one length but for what closes the last; an image beside them is one."""
    case = family(name)
    samples = Sample(6, video=True), Sample(7, images=2)
    plugin, probes = probing(case.model, ["frame_index"], (0, 3), (0.5, 0.25))
    with torch.no_grad(), rcp.attach(case.model, plugin, "drop"):
        case.model(**case.inputs(samples))
    view = probes[0].views[0]
    video, images = (view.frame_index[row][view.alive[row]] for row in range(2))
    lengths = video.unique_consecutive(return_counts=True)[1]
    assert len(lengths) == frames if frames else len(lengths) > 1
    assert lengths[0] <= lengths[-1] <= lengths[0] + 1
    assert (lengths[:-1] == lengths[0]).all()
    assert torch.equal(images, view.image_index[1][view.alive[1]]) and images.max() == 1


@pytest.mark.parametrize("generating", [False, True])
def test_a_fact_that_is_only_used_is_left_out_beside_videos(generating):
    """AOT's [CLS] attention, which this tower has; what is needed is refused as before."""
    case = family("llava_next_video")
    inputs = case.inputs((Sample(6, video=True), Sample(7, images=2)))
    for name in ("aot", "cls_attention"):
        spec = rcp.PluginSpec([rcp.StageSpec(0, 0.5, name)])
        plugin = rcp.Plugin.for_model(spec, case.model).eval()
        with torch.no_grad(), rcp.attach(case.model, plugin):
            with contextlib.nullcontext() if name == "aot" else pytest.raises(rcp.UserError):
                if generating:
                    case.model.generate(**inputs, max_new_tokens=2, do_sample=False)
                else:
                    case.model(**inputs)


def views(model, inputs, mode="drop", ratios=(0.5, 0.25)):
    """What probes at layers 0 and 3 see."""
    plugin, probes = probing(model, NEEDS, (0, 3), ratios)
    with torch.no_grad(), rcp.attach(model, plugin, mode):
        model(**inputs)
    return probes[0].views[0], probes[3].views[0]


@pytest.mark.parametrize("mode", ["drop", "soft"])
def test_a_view_shows_the_text_of_each_image(mode):
    """Before and after tokens were dropped, in a batch with more, fewer and no images."""
    inputs = tiny_inputs(questions=(5, 9, 6), images=(2, 1, 0))
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    labels[:, -2:] = 7
    model = tiny_llava_model()
    first, later = views(model, inputs | {"labels": labels}, mode)
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    embeds = model.get_input_embeddings()(ids)
    backbone = backbone_for(model)
    for view in (first, later):
        assert torch.equal(view.text_image, first.text_image)
        assert view.text.shape == (*view.text_image.shape, backbone.hidden_size)
        for row in range(3):
            text, owner, seen = [], [], -1
            for at in range(ids.shape[1] - 2):
                if ids[row, at] == IMAGE:
                    seen += ids[row, at - 1] != IMAGE
                elif valid[row, at]:
                    text.append(at)
                    owner.append(int(seen))
            assert view.text_image[row, : len(text)].tolist() == owner
            assert (view.text_image[row, len(text):] == -1).all()
            assert torch.equal(view.text_embeds[row, : len(text)], embeds[row, text])
    normed = backbone.input_norm(0, embeds)
    text = (valid[0] & (ids[0] != IMAGE)).nonzero()[:-2, 0]
    assert torch.allclose(first.text[0, : len(text)], normed[0, text], atol=1e-6)
    alive = later.alive[0]
    assert later.image_index[0][alive].tolist() == later.frame_index[0][alive].tolist() == [1] * 16


def test_the_rows_of_the_text_are_those_of_the_layer():
    """Where nothing has gone before it, the model's own."""
    inputs = tiny_inputs(questions=(5, 9), images=(2, 1))
    model = tiny_llava_model()
    later = views(model, inputs, ratios=(1.0, 0.5))[1]
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[3]
    normed = backbone_for(model).input_norm(3, hidden)
    for row, ids in enumerate(inputs["input_ids"]):
        text = (inputs["attention_mask"][row].bool() & (ids != IMAGE)).nonzero()[:, 0]
        found = later.text[row, : len(text)]
        assert torch.allclose(found, normed[row, text], atol=1e-4)


def test_nothing_of_it_is_made_for_methods_that_do_not_ask(monkeypatch):
    def never(*_):
        raise AssertionError("made for nobody")

    for module, name in ((entry, "prompt_text"), (entry, "frame_numbers"),
                         (forward, "prompt_text"), (stage, "image_of_text")):
        monkeypatch.setattr(module, name, never)
    model = tiny_llava_model()
    plugin, probes = probing(model, ["projected"], (0, 3))
    with torch.no_grad(), rcp.attach(model, plugin):
        model(**tiny_inputs(images=(2, 1)))
    assert probes[0].views[0].text is probes[3].views[0].frame_index is None
