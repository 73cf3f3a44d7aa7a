"""What the frozen model gives, read from disk: the same numbers, or a refusal by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

import rcp
import rcp.base_model.loading
import train
from rcp.__main__ import main
from rcp.attaching.given_images import ENCODER, encode_images, given_images
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.training.data_module import ConversationDataModule
from rcp.training.options import LossOptions, PluginOptions
from rcp.training.phases import GuideOptions
from rcp.training.plugin_training import PluginTraining
from rcp.training.teacher import cache as teacher_cache
from rcp.training.teacher.shards import Shards
from tests.cli import settings
from tests.decoding import frozen
from tests.dry_run import Loads, llava_onevision
from tests.families import FAMILIES, Sample
from tests.full_disk import full_disk
from tests.tiny_base import conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RCP = {"inner": 8, "queries": 4, "heads": 2}
FILM = {"inner": 8, "side": 4, "channels": 4}


class Losses(pl.Callback):
    """Notes every step's terms, and how often the frozen model and its encoder run."""

    def __init__(self) -> None:
        self.terms: list[dict[str, float]] = []
        self.calls = {"decoder": 0, "encoder": 0}

    def on_fit_start(self, _: pl.Trainer, module: pl.LightningModule) -> None:
        host = module.model.base_model
        parts = {"decoder": host.language_model, "encoder": host.vision_tower}
        for name, part in parts.items():
            part.register_forward_hook(lambda *_, name=name: self._count(name))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        metrics = trainer.callback_metrics
        self.terms.append({k: float(v) for k, v in metrics.items() if k.startswith("train/")})

    def _count(self, name: str) -> None:
        self.calls[name] += 1


def fit(
    base: Path,
    conversations: Path,
    cache: Path | None,
    layers: tuple[int, ...] = (3,),
    method: str = "rcp",
    guide: GuideOptions | None = None,
    val: Path | None = None,
    **data: Any,
) -> Losses:
    """Two steps of a training whose every term, the distillation too, reads the teacher."""
    torch.manual_seed(0)
    arguments = RCP if method == "rcp" else {}
    stages = [rcp.StageSpec(at, 0.5 / at, method, arguments) for at in (1, 2)]
    repair = rcp.RepairSpec(list(layers), arguments=FILM)
    module = PluginTraining(
        str(base),
        PluginOptions(stages=stages, repair=repair),
        loss=LossOptions(distillation=1.0),
        guide=guide,
        max_new_tokens=2,
        teacher_cache=None if cache is None else str(cache),
    )
    seen = Losses()
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[seen],
    )
    val = conversations if val is None else val
    trainer.fit(
        module, ConversationDataModule(str(conversations), str(val), batch_size=4, seed=3, **data)
    )
    return seen


@pytest.fixture
def cache(base_folder: Path, conversations: Path, tmp_path: Path) -> Path:
    """A complete cache."""
    fit(base_folder, conversations, tmp_path / "cache")
    return tmp_path / "cache"


def test_losses_are_those_of_the_computed_teacher(
    base_folder: Path, conversations: Path, cache: Path
):
    computed, read = (fit(base_folder, conversations, given) for given in (None, cache))
    assert len(computed.terms) == 2
    for mine, theirs in zip(computed.terms, read.terms):
        assert {"train/repair", "train/distillation", "train/task"} <= set(mine)
        assert mine == pytest.approx(theirs, abs=1e-6, rel=1e-6)
    # 2 steps of student and teacher; validation: 2 batches each of pruned and full, twice decoded
    assert read.calls["encoder"] == 0 and computed.calls["encoder"] > 0
    assert computed.calls["decoder"] - read.calls["decoder"] == 2


def test_relevance_is_what_would_be_computed(
    base_folder: Path, conversations: Path, cache: Path
):
    """Also where the folder was made by a run that had no use for it; kept in fp16."""
    guide = GuideOptions(share=1.0)
    computed, read = (fit(base_folder, conversations, at, guide=guide) for at in (None, cache))
    assert (cache / "relevance").is_dir()
    for mine, theirs in zip(computed.terms, read.terms):
        assert mine["train/guide"] > 1e-3
        assert mine["train/guide"] == pytest.approx(theirs["train/guide"], rel=2e-3)


def test_one_folder_serves_other_repair_layers(base_folder: Path, conversations: Path, cache: Path):
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(files) == 3  # images and answers to train on, images to validate on
    computed, read = (
        fit(base_folder, conversations, given, layers=(1, 2)) for given in (None, cache)
    )
    assert computed.terms[1] == pytest.approx(read.terms[1], abs=1e-6, rel=1e-6)
    assert files == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}


def test_methods_that_watch_the_encoder_see_it_at_work(
    base_folder: Path, conversations: Path, cache: Path
):
    computed, read = (
        fit(base_folder, conversations, given, method="cls_attention") for given in (None, cache)
    )
    assert read.terms[1] == pytest.approx(computed.terms[1], abs=1e-6, rel=1e-6)
    assert read.calls["encoder"] > 0


def other_data(conversations: Path, **_: Any) -> dict[str, Any]:
    rows = json.loads(conversations.read_text())
    rows[5]["conversations"][1]["value"] = "red"
    conversations.write_text(json.dumps(rows))
    return {}


def other_weights(base: Path, copied: Path, **_: Any) -> dict[str, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(base)
    model.base_model.vision_tower.get_parameter(
        "encoder.layers.1.mlp.fc1.weight"
    ).data.mul_(1.001)
    model.save_pretrained(copied)
    AutoProcessor.from_pretrained(base).save_pretrained(copied)
    return {"base": copied}


def other_processor(base: Path, copied: Path, **_: Any) -> dict[str, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(base)
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(copied)
    AutoModelForImageTextToText.from_pretrained(base).save_pretrained(copied)
    return {"base": copied}


def other_length(**_: Any) -> dict[str, Any]:
    return {"max_length": 1000}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_data, "data"),
        (other_weights, "base model"),
        (other_processor, "processor"),
        (other_length, "max_length"),
    ],
)
def test_another_fingerprint_is_refused_by_name(
    change: Any, named: str, base_folder: Path, conversations: Path, cache: Path, tmp_path: Path
):
    changes = {"base": base_folder}
    changes |= change(base=base_folder, conversations=conversations, copied=tmp_path / "base")
    with pytest.raises(rcp.UserError, match=f"its {named} differ.*model.teacher_cache"):
        fit(conversations=conversations, cache=cache, **changes)


def test_a_cache_of_an_earlier_layout_is_refused(
    base_folder: Path, conversations: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(teacher_cache, "LAYOUT", teacher_cache.LAYOUT + 1)
    with pytest.raises(rcp.UserError, match="its layout differ.*model.teacher_cache"):
        fit(base_folder, conversations, cache)


def test_a_build_that_was_cut_off_goes_on(
    base_folder: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Files that are there are not made again."""
    monkeypatch.setattr(teacher_cache, "SHARD", 2)
    whole = tmp_path / "whole"
    expected = fit(base_folder, conversations, whole)
    parts = sorted((whole / "answers").glob("*.safetensors"))
    assert len(parts) == 4
    content = parts[2].read_bytes()
    parts[2].unlink()
    before = parts[1].stat().st_mtime_ns
    assert fit(base_folder, conversations, whole).terms == expected.terms
    assert parts[1].stat().st_mtime_ns == before and parts[2].read_bytes() == content


def test_a_damaged_file_is_refused(base_folder: Path, conversations: Path, cache: Path):
    damaged = next((cache / "answers").glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(rcp.UserError, match=f"{damaged.name}.*Remove that file"):
        fit(base_folder, conversations, cache)


@pytest.mark.parametrize("content", ["[1]", "null", '{"base model', "[" * 100_000])
def test_a_damaged_fingerprint_is_refused(
    content: str, base_folder: Path, conversations: Path, cache: Path
):
    (cache / "answers" / "fingerprint.json").write_text(content)
    with pytest.raises(rcp.UserError, match="fingerprint.json' is damaged.*Remove the folder"):
        fit(base_folder, conversations, cache)


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path):
    with full_disk(), pytest.raises(rcp.UserError, match="00000.safetensors' cannot be written"):
        Shards(tmp_path).write(0, {"rows": torch.zeros(5000)}, {})
    assert not list(tmp_path.iterdir())


def test_ids_that_occur_twice_are_told_apart(base_folder: Path, tmp_path: Path):
    rows = [conversation(0), conversation(1), conversation(1, id="sample-0"), conversation(3)]
    path = write_conversations(tmp_path / "twice.json", rows)
    computed, read = (fit(base_folder, path, given) for given in (None, tmp_path / "cache"))
    assert computed.terms == [pytest.approx(t, abs=1e-6, rel=1e-6) for t in read.terms]


def test_text_only_samples_have_no_features(base_folder: Path, tmp_path: Path):
    turns = [{"from": "human", "value": "how many ?"}, {"from": "gpt", "value": "two"}]
    rows = [conversation(n, image=None, conversations=turns) for n in range(4)]
    path = write_conversations(tmp_path / "text.json", [*rows, *map(conversation, range(4, 8))])
    computed, read = (fit(base_folder, path, given) for given in (None, tmp_path / "cache"))
    assert computed.terms[1] == pytest.approx(read.terms[1], abs=1e-6, rel=1e-6)


def test_a_file_may_hold_nothing(
    base_folder: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of validation samples images alone are kept, and InternVL's features are not one for each."""
    monkeypatch.setattr(teacher_cache, "_per_image", lambda *_: [])
    computed, read = (fit(base_folder, conversations, at) for at in (None, tmp_path / "cache"))
    assert computed.terms == [pytest.approx(t, abs=1e-6, rel=1e-6) for t in read.terms]


def test_an_image_alone_and_the_same_among_others_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """LLaVA-OneVision cuts an image into tiles where it is the only one of its sample."""
    base = llava_onevision(4)
    base.model.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(rcp.base_model.loading, "AutoProcessor", Loads(base.processor))
    question = {"from": "human", "value": "<image> <image>\nhow many ?"}
    turns = [question, {"from": "gpt", "value": "two"}]
    images = ["images/0.png", "images/1.png"]
    rows = [conversation(n, image=images, conversations=turns) for n in range(4)]
    path = write_conversations(tmp_path / "some.json", [*rows, *map(conversation, range(4, 8))])
    computed, read = (fit(tmp_path / "base", path, at) for at in (None, tmp_path / "cache"))
    assert computed.terms == [pytest.approx(t, abs=1e-6, rel=1e-6) for t in read.terms]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_given_features_change_nothing(family: str):
    """Whatever a family adds to its features (positions, deeper layers) stays right."""
    case = frozen(FAMILIES[family]())  # as a teacher is: another kernel may serve a gradient
    inputs = case.inputs([Sample(seed=1), Sample(seed=2, images=2)])
    plain = case.model(**inputs).logits
    features = encode_images(case.model, inputs)
    with given_images(case.model, features):
        inside = case.model(**inputs).logits
        again = case.model(**inputs).logits
    assert torch.equal(plain, inside) and torch.equal(plain, again)
    assert ENCODER not in vars(case.model.base_model)


def test_a_sample_too_long_for_training_is_not_kept(base_folder: Path, tmp_path: Path):
    """Another one stands in for it, with the teacher's answers to that one."""
    long = {"from": "human", "value": "<image>\n" + "red " * 40}
    turns = [long, {"from": "gpt", "value": "dark"}]
    rows = [conversation(n) for n in range(7)] + [conversation(7, conversations=turns)]
    path = write_conversations(tmp_path / "long.json", rows)
    computed, read = (
        fit(base_folder, path, given, max_length=40) for given in (None, tmp_path / "cache")
    )
    assert computed.terms == [pytest.approx(t, abs=1e-6, rel=1e-6) for t in read.terms]


def test_an_unreadable_sample_is_passed_over(base_folder: Path, tmp_path: Path):
    """What stands in for it belongs to another file: its features must not land in this one."""
    rows = [conversation(n) for n in range(8)]
    path = write_conversations(tmp_path / "some.json", rows)
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    val = write_conversations(tmp_path / "val" / "all.json", rows[:2])
    computed, read = (
        fit(base_folder, path, given, val=val, unreadable=0.9) for given in (None, tmp_path / "c")
    )
    assert computed.terms == [pytest.approx(t, abs=1e-6, rel=1e-6) for t in read.terms]


def test_features_are_given_for_generation_too(base_folder: Path, conversations: Path):
    module = PluginTraining(
        str(base_folder), PluginOptions(stages=[rcp.StageSpec(1, 0.5, "rcp", RCP)])
    )
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor, with_answers=False)([dataset[0], dataset[1]])
    plain = module.model.generate(**batch["inputs"], do_sample=False, max_new_tokens=4)
    with given_images(module.model, encode_images(module.model, batch["inputs"])):
        module.model.base_model.vision_tower = None
        given = module.model.generate(**batch["inputs"], do_sample=False, max_new_tokens=4)
    assert torch.equal(plain, given)


# -- made before a training, by many processes -------------------------------------------------


@pytest.fixture
def config(base_folder: Path, conversations: Path, tmp_path: Path) -> Path:
    values = settings(base_folder, conversations, tmp_path)
    values["model"] |= {"guide": {"share": 0.5}, "teacher_cache": str(tmp_path / "cache")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_processes_that_know_nothing_of_each_other_make_what_one_training_would(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Late ones, and one that is started again, too; the training then makes nothing."""
    monkeypatch.setattr(teacher_cache, "SHARD", 2)
    assert train.main(["--config", str(config)]) == 0
    (tmp_path / "cache").rename(tmp_path / "expected")
    expected = content(tmp_path / "expected")
    assert {name.partition("/")[0] for name in expected} == {
        "images", "answers", "relevance", "validation",
    }
    label = ["label", "--config", str(config), "--processes", "3", "--process"]
    assert main([*label, "2"]) == 0
    assert f"{tmp_path / 'cache' / 'answers'}: 1 of 4 files are there" in capsys.readouterr().out
    assert {name[-18:] for name in content(tmp_path / "cache")} == {"/00002.safetensors"}
    assert main([*label, "0"]) == main([*label, "0"]) == main([*label, "1"]) == 0
    assert "4 of 4 files are there" in capsys.readouterr().out.splitlines()[-1]
    assert content(tmp_path / "cache") == expected
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*")}
    assert train.main(["--config", str(config), "--run_folder", str(tmp_path / "again")]) == 0
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*")}


def test_labels_may_be_kept_without_images(config: Path, tmp_path: Path):
    given = ["--config", str(config), "--model.cache_images", "false"]
    assert main(["label", *given]) == 0
    assert train.main(given) == 0
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"answers", "relevance"}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--process", "2", "--processes", "2"], "--process is 2 and --processes 2"),
        (["--process", "-1"], "--process is -1"),
        (["--processes", "0"], "--processes 0"),
        (["--model.teacher_cache", "null"], "model.teacher_cache is null"),
        (["--data.train", "gone.json"], "no conversation file 'gone.json'"),
        (["--model.temprature", "1"], "model.temprature"),
    ],
)
def test_labels_that_cannot_be_made_are_refused(
    more: list[str], complaint: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main(["label", "--config", str(config), *more]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()
