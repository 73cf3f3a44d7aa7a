"""Training on a tiny random model: what moves, what stays, what is saved."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor

import rcp
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.training.checkpoint import ENTRY, rebuild_plugin
from rcp.training.data_module import ConversationDataModule
from rcp.training.export import export_checkpoint
from rcp.training.objective import answer_logits
from rcp.training.options import LossOptions, OptimizerOptions, PluginOptions
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.folder import callbacks
from rcp.training.run.survival import AtomicCheckpointIO
from tests.families import FAMILIES
from tests.tiny_base import TOKENS, conversation, make_processor, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RCP = {"inner": 8, "queries": 4, "heads": 2}
FILM = {"inner": 8, "side": 4, "channels": 4}
REPAIR = rcp.RepairSpec([3], arguments=FILM)


def options(method: str = "rcp", **changes: Any) -> PluginOptions:
    arguments = RCP if method == "rcp" else {}
    stages = [rcp.StageSpec(1, 0.5, method, arguments), rcp.StageSpec(2, 0.25, method, arguments)]
    return PluginOptions(**{"stages": stages, "repair": REPAIR, **changes})


def training(base: Path, plugin: PluginOptions | None = None, **changes: Any) -> PluginTraining:
    changes = {"optimizer": OptimizerOptions(learning_rate=1e-2), "max_new_tokens": 2, **changes}
    return PluginTraining(str(base), plugin or options(), gradient_shares_every=1, **changes)


def trainer(
    folder: Path, steps: int, more: tuple[pl.Callback, ...] = (), **changes: Any
) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks(folder), *more],
        plugins=[AtomicCheckpointIO()],
        **changes,
    )


def data(path: Path, batch_size: int = 4) -> ConversationDataModule:
    return ConversationDataModule(str(path), str(path), batch_size=batch_size)


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_a_run_trains_the_plugin_alone_and_exports(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    module = training(base_folder)
    before, start = fingerprint(module.model), fingerprint(module.plugin)
    trainer(tmp_path, 4).fit(module, data(conversations))
    trained = fingerprint(module.plugin)
    assert fingerprint(module.model) == before and trained != start

    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"plugin"}
    assert fingerprint(rebuild_plugin(checkpoint)) == trained
    results = checkpoint[ENTRY]["training"]["results"]
    assert {"accuracy", "accuracy_counting", "full_accuracy"} <= set(results)

    export_checkpoint(tmp_path / "last.ckpt", tmp_path / "exported")
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "README.md",
        "plugin.json",
        "plugin.safetensors",
    ]
    model = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    batch = next(iter(module.trainer.train_dataloader))["inputs"]
    logits = []
    for plugin in (module.plugin.eval(), rcp.load_plugin(tmp_path / "exported")):
        with torch.no_grad(), rcp.attach(model, plugin, "drop"):
            logits.append(model(**batch).logits)
    assert torch.equal(*logits)


class KeepCheckpoint(pl.Callback):
    """Copies last.ckpt as it is after the step ``at``."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at = folder, at

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            shutil.copy(self.folder / "last.ckpt", self.folder / "kept.ckpt")


@pytest.mark.parametrize("at", [2, 4])  # in the middle and at the end of an epoch
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    at: int, base_folder: Path, conversations: Path, tmp_path: Path
):
    """Data order, noise, dropout, temperature and learning rate all go on where they were."""
    ends = []
    keep = KeepCheckpoint(tmp_path / "0", at)
    for number, checkpoint in enumerate((None, tmp_path / "0" / "kept.ckpt")):
        torch.manual_seed(0)
        module, folder = training(base_folder), tmp_path / str(number)
        run = trainer(folder, 6, (keep,) if number == 0 else (), val_check_interval=1)
        run.fit(module, data(conversations, batch_size=2), ckpt_path=checkpoint)
        ends.append(fingerprint(module.plugin))
    assert ends[0] == ends[1]


class Gradients(pl.Callback):
    """Randomises the plug-in and notes which parameters the first backward pass reaches."""

    def on_fit_start(self, _: pl.Trainer, module: pl.LightningModule) -> None:
        for parameter in module.plugin.parameters():
            torch.nn.init.normal_(parameter, std=0.3)

    def on_after_backward(self, _: pl.Trainer, module: pl.LightningModule) -> None:
        self.plugin = {n: p.grad for n, p in module.plugin.named_parameters()}
        self.frozen = [p.grad for p in module.model.parameters()]
        self.logged = dict(module.trainer.callback_metrics)


@pytest.mark.parametrize("selection", ["top_k", "threshold"])
@pytest.mark.parametrize("margin", [None, 2.0])
def test_every_parameter_of_the_plugin_gets_a_gradient_and_no_other(
    selection: str, margin: float | None, base_folder: Path, conversations: Path, tmp_path: Path
):
    seen = Gradients()
    module = training(base_folder, options(selection=selection), margin=margin)
    trainer(tmp_path, 1, (seen,)).fit(module, data(conversations, batch_size=8))
    silent = [name for name, g in seen.plugin.items() if g is None or not g.abs().max() > 0]
    assert not silent
    assert all(gradient is None for gradient in seen.frozen)
    shares = {n: v for n, v in seen.logged.items() if n.startswith("train/gradient_share_")}
    expected = {"task", "repair"} | ({"budget"} if selection == "threshold" else set())
    assert {name.rsplit("_")[-1] for name in shares} == expected
    assert sum(shares.values()).item() == pytest.approx(1)
    if selection == "top_k":
        assert seen.logged["train/kept_from_layer_1"] == TOKENS / 2
        assert seen.logged["train/mean_ratio"] == pytest.approx(module.plugin.mean_ratio)


@pytest.mark.parametrize("margin", [None, 2.0])
def test_gradient_checkpointing_gives_the_same_gradients(
    margin: float | None, base_folder: Path, conversations: Path, tmp_path: Path
):
    found, layers = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        seen = Gradients()
        module = training(base_folder, margin=margin, gradient_checkpointing=checkpointing)
        module.gradient_shares_every = 0  # it, too, runs backward passes
        mlp, runs = module.model.get_decoder().layers[2].mlp, [0]
        mlp.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
        trainer(tmp_path, 1, (seen,), limit_val_batches=0).fit(module, data(conversations))
        found.append(seen.plugin)
        layers.append(runs[0])
    assert layers[1] == layers[0] + 1  # once more, in the backward pass
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


LOOKING_BACK = [rcp.StageSpec(1, 0.5, "rcp", RCP), rcp.StageSpec(3, 0.25, "transprune")]


@pytest.mark.parametrize("changes", [{"lora": rcp.LoraSpec(rank=2)}, {"stages": LOOKING_BACK}])
def test_checkpointed_layers_are_computed_again_as_they_were(
    changes: dict[str, Any], base_folder: Path, conversations: Path, tmp_path: Path
):
    """Low-rank adapters and what a pruner watches lie inside layers; both are detached by then."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        seen = Gradients()
        module = training(base_folder, options(**changes), gradient_checkpointing=checkpointing)
        trainer(tmp_path, 1, (seen,), limit_val_batches=0).fit(module, data(conversations))
        found.append(seen.plugin)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


class Draws(pl.Callback):
    """Notes the seed of every batch's noise and dropout."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def on_before_backward(self, *_: Any) -> None:
        self.seeds.append(torch.initial_seed())


def test_batches_accumulated_for_a_step_differ_in_their_noise(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """With one noise for all of them a step would try one choice where it could try several."""
    drawn = []
    for accumulated in (1, 2):
        torch.manual_seed(0)
        seen = Draws()
        run = trainer(tmp_path, 4 // accumulated, (seen,), accumulate_grad_batches=accumulated)
        run.fit(training(base_folder), data(conversations, batch_size=2))
        drawn.append(seen.seeds)
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 4


@pytest.mark.parametrize("method", ["random", "question_attention"])
def test_a_control_without_trained_pruners_trains_its_repair(
    method: str, base_folder: Path, conversations: Path, tmp_path: Path
):
    module = training(base_folder, options(method), loss=LossOptions(distillation=1.0))
    before = fingerprint(module.plugin)
    trainer(tmp_path, 2).fit(module, data(conversations))
    assert fingerprint(module.plugin) != before


def test_low_rank_adapters_instead_of_repair_around_a_base_that_has_one_already(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    carrier = AutoModelForImageTextToText.from_pretrained(base_folder)
    targets = r".*language_model.*v_proj"
    carrier.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    own = tmp_path / "own-adapter"
    carrier.save_pretrained(own)
    AutoProcessor.from_pretrained(base_folder).save_pretrained(own)

    lora = rcp.LoraSpec(rank=2, targets=["q_proj", "v_proj"], layers=[2, 3])
    module = training(own, options("question_attention", repair=None, lora=lora))
    before = fingerprint(module.model)
    trainer(tmp_path, 2).fit(module, data(conversations))
    assert fingerprint(module.model) == before
    assert all(pair.up.weight.any() for pair in module.plugin.lora.pairs.values())
    export_checkpoint(tmp_path / "last.ckpt", tmp_path / "exported")
    assert (tmp_path / "exported" / "lora" / "adapter_config.json").is_file()
    model, _ = rcp.load(tmp_path / "exported")
    assert model.peft_config  # the base's own adapter came along


def test_a_run_goes_on_from_numbers_without_a_dimension(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """As RCP's bias was saved, and its moments, before DeepSpeed asked for a dimension."""
    trainer(tmp_path, 1).fit(training(base_folder), data(conversations))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    for values in (checkpoint["state_dict"], *optimizer["state"].values()):
        values |= {name: value.view(()) for name, value in values.items() if value.numel() == 1}
    assert checkpoint["state_dict"]["plugin.pruners.1.bias"].dim() == 0
    torch.save(checkpoint, tmp_path / "old.ckpt")
    run = trainer(tmp_path, 2)
    run.fit(training(base_folder), data(conversations), ckpt_path=tmp_path / "old.ckpt",
            weights_only=True)
    assert run.global_step == 2


def test_text_only_batches_train(base_folder: Path, tmp_path: Path):
    """Nothing is pruned: data-parallel training would wait for gradients that never come."""
    turns = [{"from": "human", "value": "how many ?"}, {"from": "gpt", "value": "two"}]
    rows = [conversation(n, image=None, conversations=turns) for n in range(4)]
    path = write_conversations(tmp_path / "text.json", rows)
    seen = Gradients()
    trainer(tmp_path, 1, (seen,)).fit(training(base_folder), data(path))
    assert all(gradient is not None for gradient in seen.plugin.values())
    assert seen.logged["train/mean_ratio"] == 1


def test_a_bfloat16_model_trains_a_float32_plugin(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """Validation casts a copy: steps of 5e-5 would vanish in bfloat16 weights."""
    module = training(base_folder, dtype="bfloat16")
    trainer(tmp_path, 2).fit(module, data(conversations))
    assert {p.dtype for p in module.plugin.parameters()} == {torch.float32}
    assert {p.dtype for p in module.model.parameters()} == {torch.bfloat16}


def test_answer_logits_are_those_of_the_whole_forward(base_folder: Path, conversations: Path):
    module, dataset = training(base_folder), ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[0], dataset[1]])
    whole = module.model(**batch["inputs"]).logits
    logits, labels = answer_logits(module.model, batch)
    assert logits.shape[:2] == labels.shape == (2, 3)  # last prompt row, answer, end of sequence
    torch.testing.assert_close(logits, whole[:, -3:])
    assert torch.equal(labels, batch["labels"][:, -3:])


class Budgets(pl.Callback):
    """Notes the mean kept share of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["train/mean_ratio"]))


def test_a_range_of_budgets_is_drawn_from_step_by_step(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """The same draws in every run with one seed: a resumed run must repeat them."""
    runs = []
    for run in range(2):
        torch.manual_seed(0)
        noted = Budgets()
        module = training(base_folder, options(budgets=[0.4, 0.9]))
        trainer(tmp_path / str(run), 4, (noted,)).fit(module, data(conversations))
        runs.append(noted.seen)
    assert runs[0] == runs[1] and len(set(runs[0])) > 1
    assert all(0.35 < ratio < 0.95 for ratio in runs[0])  # rounded to whole tokens
    exported = rebuild_plugin(torch.load(tmp_path / "0" / "last.ckpt", weights_only=True))
    assert exported.spec.budgets == [0.4, 0.9]
    assert exported.at_budget(0.6).mean_ratio == pytest.approx(0.6)


def test_nothing_to_train_is_refused(base_folder: Path):
    with pytest.raises(rcp.UserError, match="Nothing can be trained.*random"):
        training(base_folder, options("random", repair=None))


def test_what_cannot_be_attached_is_refused_before_anything_is_computed(tmp_path: Path):
    """The teacher's answers to a whole data set may come before the first step."""
    FAMILIES["llava-mistral-window"]().model.save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    stages = [rcp.StageSpec(0, 0.5, "rcp", RCP)]
    with pytest.raises(rcp.UserError, match="'repack' is impossible.*sliding window"):
        training(tmp_path, options(stages=stages, position_policy="repack"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stages": None}, "described by nothing"),
        ({"budget": 4, "layers": [1]}, "described by stages and budget and layers"),
        ({"stages": None, "budget": 4}, "described by budget"),
        ({"stages": None, "budget": 17, "layers": [1]}, "budget of 17 .* 1 to 16"),
        ({"stages": None, "budget": 0, "layers": [1]}, "budget of 0 .* 1 to 16"),
        ({"stages": None, "budget": 2, "layers": [2]}, "out of reach"),
        ({"stages": None, "budget": 4, "layers": [4]}, "layer 4"),
        ({"repair": rcp.RepairSpec([9], arguments=FILM)}, "Repair layer 9"),
    ],
)
def test_stages_that_cannot_be_are_refused(changes: dict[str, Any], complaint: str, base_folder):
    with pytest.raises(rcp.UserError, match=complaint):
        training(base_folder, options(**changes))


def test_a_budget_becomes_stages_with_that_mean(base_folder: Path):
    chosen = options(stages=None, budget=8, layers=[1, 2], arguments=RCP)
    assert training(base_folder, chosen).plugin.mean_ratio == pytest.approx(0.5)
    chosen = options(stages=None, budget=0.4, layers=[1, 2], arguments=RCP)
    assert training(base_folder, chosen).plugin.mean_ratio == pytest.approx(0.4)
