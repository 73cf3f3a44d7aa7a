"""The first stage as an ONNX file: the plug-in's own scores on its own images, or refused."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

import export
import rcp
from rcp.folder import scorer
from rcp.folder.scorer import save_scorer
from tests.documents import ROOT
from tests.tiny import covipal_spec, randomised, rcp_spec, tiny_inputs

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")

SPECS = {
    "rcp": lambda: rcp_spec((0, 3), repair=()),
    "covipal": covipal_spec,
    "rcp inside": lambda: rcp_spec((1, 3)),
    "rcp, literal and blind": lambda: _changed(rcp_spec(), literal_scale=True, blind=True),
    "covipal without text": lambda: _changed(covipal_spec(), text=False),
}
QUICK = ("rcp", "covipal")


def _changed(spec, **arguments):
    spec.stages[0].arguments = {**spec.stages[0].arguments, **arguments}
    return spec


def seen(model, plugin, inputs):
    """The view of the first stage, and the scores of its pruner."""
    layer = plugin.schedule.layers[0]
    with torch.no_grad(), rcp.attach(model, plugin, "record") as handle:
        with handle.prompt(inputs["input_ids"].shape[1]), handle.trace(views=[layer]) as trace:
            model(**inputs, use_cache=False)
    view = trace.views[layer]
    return view, plugin.pruner(layer)(view).detach()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SPECS]
)
def test_scores_are_the_plugins_own(tiny_llava, tmp_path, name):
    """Of one image, of a ragged batch, and of rows with other numbers of images."""
    plugin = randomised(rcp.Plugin.for_model(SPECS[name](), tiny_llava))
    before = {key: value.clone() for key, value in plugin.state_dict().items()}
    save_scorer(plugin, tmp_path / "scorer.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "scorer.onnx"))
    assert all(torch.equal(value, before[key]) for key, value in plugin.state_dict().items())
    for questions, images in (((5,), (1,)), ((5, 7), (1, 1)), ((3, 9, 4), (2, 1, 0))):
        view, expected = seen(tiny_llava, plugin, tiny_inputs(questions, images))
        given = {one.name: getattr(view, one.name).numpy() for one in session.get_inputs()}
        (found,) = session.run(["scores"], given)
        gap = (torch.from_numpy(found) - expected)[view.alive].abs().max()
        assert gap <= 1e-5 * max(1, expected[view.alive].abs().max())


def test_the_plugin_of_the_repository_is_written_by_the_command(tmp_path, capsys):
    """From the folder, and with the sizes as names."""
    target = tmp_path / "scorer.onnx"
    command = ["--checkpoint", str(ROOT / "data" / "tiny-plugin"), "--output", str(target)]
    assert export.main([*command, "--format", "onnx"]) == 0
    assert "with equal scores" in capsys.readouterr().out
    inputs = {one.name: one.shape for one in onnxruntime.InferenceSession(str(target)).get_inputs()}
    assert inputs == {
        "visual": ["batch", "tokens", 96],
        "alive": ["batch", "tokens"],
        "question": ["batch", "words", 96],
        "question_valid": ["batch", "words"],
        "question_attention": ["batch", "tokens"],
    }
    assert target.stat().st_size < 500_000 and [p.name for p in tmp_path.iterdir()] == [target.name]
    assert export.main([*command, "--format", "onnx"]) == 2
    assert "exists already" in capsys.readouterr().err
    target.write_text("older")
    assert export.main([*command, "--format", "onnx", "--overwrite"]) == 0
    assert target.stat().st_size > 100_000
    assert export.main([*command, "--format", "onnx", "--base", "data/tiny-vlm"]) == 2
    assert "leave out --base and --evaluation" in capsys.readouterr().err


# -- the formula of docs/engines.md, written down once more ----------------------------------------


class Tensors(dict):
    """Weights by name, and the layers they are of, of one sample."""

    def linear(self, name, rows):
        return rows @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def norm(self, name, rows):
        return functional.layer_norm(
            rows, rows.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"]
        )

    def attention(self, name, rows, others, heads):
        parts = zip(("query", "key", "value"), (rows, others, others))
        q, k, v = (
            self.linear(f"{name}.{part}", x).unflatten(-1, (heads, -1)).transpose(0, 1)
            for part, x in parts
        )
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear(f"{name}.out", (weights @ v).transpose(0, 1).flatten(-2))


def rcp_by_document(w, view, heads):
    v = w.linear("visual", view.visual[0])
    asked = w.norm("question_norm", w.linear("question", view.question[0].mean(0)))
    q = w.linear("query_projection", w["queries"] + asked)
    k = w.linear("key_projection", v)
    q, k = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(0) * len(v) - 1
    of_token = functional.gelu(w.norm("token_mlp.1", w.linear("token_mlp.0", v)))
    a = view.question_attention[0].clamp(min=1e-6).log()
    residual = w.linear("mix", weights.T) + w.linear("token_mlp.4", of_token)
    return a - a.mean() + residual[:, 0] + w["bias"]


def covipal_by_document(w, view, heads):
    def projected(rows):
        return w.linear("project", functional.layer_norm(rows, rows.shape[-1:]))

    visual, grid = view.visual[0], view.grid[0]
    frequencies = torch.pi / 2 * torch.tensor([1.0, 2, 4, 8])
    angles = torch.cat([grid[:, :1] * frequencies, grid[:, 1:] * frequencies], 1)
    x = projected(visual - visual.mean(0))
    x = x + w.linear("place", torch.cat([angles.sin(), angles.cos()], 1))
    y = projected(view.question[0]) + w["question_type.vector"]
    for n in range(2):
        b = f"blocks.{n}"
        own = w.norm(f"{b}.self_norm", x)
        x = x + w.attention(f"{b}.self_attention", own, own, heads)
        words = torch.cat([w[f"{b}.cross.no_word"][None], w.norm(f"{b}.cross.question_norm", y)])
        seen = w.norm(f"{b}.cross.visual_norm", x)
        found = w.attention(f"{b}.cross.attention", seen, words, heads)
        x = x + w[f"{b}.cross.gate"] * found
        inner = functional.gelu(w.linear(f"{b}.mlp.1", w.norm(f"{b}.mlp.0", x)))
        x = x + w.linear(f"{b}.mlp.3", inner)
    return w.linear("head", w.norm("norm", x))[:, 0]


@pytest.mark.parametrize("name", QUICK)
def test_the_formula_of_the_document_is_that_of_the_method(tiny_llava, tmp_path, name):
    """From the tensors of the folder, by the names they have there."""
    plugin = randomised(rcp.Plugin.for_model(SPECS[name](), tiny_llava))
    rcp.save_plugin(plugin, tmp_path / "plugin")
    tensors = load_file(tmp_path / "plugin" / "plugin.safetensors")
    mine = {key.removeprefix("pruners.0."): value for key, value in tensors.items()
            if key.startswith("pruners.0.")}
    view, expected = seen(tiny_llava, plugin, tiny_inputs((5,), (1,)))
    by_document = {"rcp": rcp_by_document, "covipal": covipal_by_document}[name]
    found = by_document(Tensors(mine), view, plugin.spec.stages[0].arguments["heads"])
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)


# -- refused ---------------------------------------------------------------------------------------


def test_what_has_no_scorer_is_refused_by_name(tiny_llava, tmp_path, monkeypatch):
    for stages, message in (
        ([rcp.StageSpec(0, 0.5, "divprune"), rcp.StageSpec(2, 0.2, "rcp")], "is 'divprune'"),
        ([], "it has no stage"),
    ):
        plugin = rcp.Plugin.for_model(rcp.PluginSpec(stages), tiny_llava)
        with pytest.raises(rcp.UserError, match=f"{message}, and ONNX files are of .*rcp and cov"):
            save_scorer(plugin, tmp_path / "scorer.onnx")
    plugin = rcp.Plugin.for_model(rcp_spec(), tiny_llava)
    with pytest.raises(rcp.UserError, match="exists already"):
        save_scorer(plugin, tmp_path, overwrite=True)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    with pytest.raises(rcp.UserError, match=r"onnxscript is not installed. .*rcp\[onnx\]"):
        save_scorer(plugin, tmp_path / "scorer.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_scores_otherwise_is_not_left_behind(tiny_llava, tmp_path, monkeypatch):
    plugin = randomised(rcp.Plugin.for_model(rcp_spec(), tiny_llava))
    write = scorer._write

    def of_other_weights(made, file):
        write(scorer._scorer_of(randomised(rcp.Plugin.for_model(rcp_spec(), tiny_llava), 4)), file)

    monkeypatch.setattr(scorer, "_write", of_other_weights)
    with pytest.raises(RuntimeError, match="does not give the plug-in's scores"):
        save_scorer(plugin, tmp_path / "scorer.onnx")
    assert list(tmp_path.iterdir()) == []
