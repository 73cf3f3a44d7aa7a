"""Questions made while training: the same whoever makes them, never those of another split."""

import zlib
from collections import Counter
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader

import rcp
import train
from data.drawing import draw_scene
from data.endless import BLOCK, EndlessScenes, _block
from data.generate import asked
from data.questions import QUESTION_TYPES
from data.scenes import split_of
from rcp.conversations.endless import MAKERS, NumberedStream
from rcp.training.data_module import ConversationDataModule
from rcp.training.phases import GuideOptions
from tests.cli import settings
from tests.test_training_plugin import fingerprint, trainer, training

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def generated(val: Path, batch_size: int = 4, **changes: Any) -> ConversationDataModule:
    return ConversationDataModule("generated", str(val), batch_size=batch_size, **changes)


# -- what is made ------------------------------------------------------------------------------


def test_a_sample_follows_from_its_number_and_the_seed():
    one, other = EndlessScenes(3), EndlessScenes(3)
    numbers = [5, 2 * BLOCK + 1, 0, BLOCK - 1]
    found = {number: one[number] for number in numbers}
    _block.cache_clear()
    for number in reversed(numbers):
        again = other[number]
        assert again.sample == found[number].sample
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(found[number].images[0]))
    assert len({item.sample.id for item in found.values()}) == len(numbers)
    assert EndlessScenes(4)[5].sample.question != found[5].sample.question


def test_a_sample_shows_its_own_scene_and_asks_about_it():
    """Against the answers that data.questions lists for the scene itself."""
    questions = EndlessScenes(0)
    for number in range(0, BLOCK, 16):
        scene, question = _block(0, 0)[number]
        item = questions[number]
        assert np.array_equal(np.asarray(item.images[0]), draw_scene(scene))
        assert item.sample.question == f"<image>\n{question.text.replace(' ?', '?')}"
        listed = QUESTION_TYPES[question.type].candidates(scene)
        assert question.text in listed[item.sample.answer] == listed[question.answer]
        assert item.sample.question_type == question.type


def test_no_scene_is_of_another_split():
    made = [scene for block in range(6) for scene, _ in _block(0, block)]
    assert {split_of(scene) for scene in made} == {"train"}
    hashes = {scene_hash(scene) for scene in made}
    for split in ("val", "test"):
        for seed in (0, 1):
            others = {scene_hash(scene) for _, scene, _ in islice(asked(split, seed), 1000)}
            assert not hashes & others
    # a file of the split "train" shares none with them either, whatever its seed
    assert not hashes & {scene_hash(scene) for _, scene, _ in islice(asked("train", 0), 1000)}
    assert len(hashes) > 6 * BLOCK / 5, "about four questions a scene"


def scene_hash(scene: Any) -> int:
    arrays = [scene.shape, scene.colour, scene.size, scene.letter]
    return zlib.crc32(np.concatenate(arrays).astype(np.int8).tobytes())


def test_answers_are_even_in_every_block():
    for block in (0, 7):
        kinds = Counter(question.type for _, question in _block(1, block))
        assert set(kinds) == set(QUESTION_TYPES)
        weights = {name: kind.weight for name, kind in QUESTION_TYPES.items()}
        share = {name: n / BLOCK * sum(weights.values()) / weights[name]
                 for name, n in kinds.items()}
        assert all(0.4 < value < 1.8 for value in share.values())
        yes = Counter(q.answer for _, q in _block(1, block) if q.type == "existence")
        assert abs(yes["yes"] - yes["no"]) <= 3


def test_questions_on_one_scene_are_not_neighbours():
    ids = [id(scene) for scene, _ in _block(0, 0)]
    assert sum(a == b for a, b in zip(ids, ids[1:])) < BLOCK / 10


# -- in which order ----------------------------------------------------------------------------


def batches(batch_size: int, ranks: int, workers: int, done: int, steps: int) -> list[list[str]]:
    """The ids of every step, all ranks together, sorted."""
    found: list[list[str]] = [[] for _ in range(steps)]
    for rank in range(ranks):
        stream = NumberedStream(EndlessScenes(0), batch_size, partial(int, done), rank, ranks)
        loader = DataLoader(stream, batch_size, num_workers=workers,
                            collate_fn=lambda items: [next(iter(item)).load().sample.id
                                                      for item in items])
        for step, ids in enumerate(islice(loader, steps)):
            assert len(ids) == batch_size
            found[step] += ids
    return [sorted(ids) for ids in found]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_steps_have_the_same_samples_however_they_are_shared(ranks: int, workers: int):
    expected = [[f"generated-0-{8 * step + place:09d}" for place in range(8)] for step in range(7)]
    assert batches(8 // ranks, ranks, workers, 0, 4) == expected[:4]
    assert batches(8 // ranks, ranks, workers, 3, 4) == expected[3:], "resumed"


# -- in a training -----------------------------------------------------------------------------


class Ids(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, _: Any, __: Any, batch: Any, ___: int) -> None:
        self.seen.append(batch["ids"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("guide", [GuideOptions(online=True, share=1.0), None])
def test_a_resumed_run_goes_on_with_the_next_questions(
    workers: int, guide: GuideOptions | None, base_folder: Path, conversations: Path,
    tmp_path: Path,
):
    """With another number of workers, too."""
    ends, ids = [], []
    for name, parts in (("whole", [(6, workers)]), ("cut", [(3, workers), (6, 2 - workers)])):
        seen = Ids()
        for steps, used in parts:
            torch.manual_seed(0)
            module, last = training(base_folder, guide=guide), tmp_path / name / "last.ckpt"
            more = (seen, StopAt(steps))
            run = trainer(tmp_path / name, 6, more, limit_val_batches=0)
            run.fit(module, generated(conversations, num_workers=used),
                    ckpt_path=last if last.exists() else None, weights_only=True)
        ends.append(fingerprint(module.plugin))
        ids.append(seen.seen)
    assert ids[0] == ids[1] and len(set(chain(*ids[0]))) == 24
    assert ends[0] == ends[1]


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


def test_what_cannot_be_is_refused(base_folder: Path, conversations: Path, tmp_path: Path):
    with pytest.raises(rcp.UserError, match="data.seed is -1"):
        generated(conversations, seed=-1)
    with pytest.raises(rcp.UserError, match="group_by_length needs the lengths"):
        generated(conversations, group_by_length=True)
    with pytest.raises(rcp.UserError, match="data.train is generated.*data.streaming to false"):
        generated(conversations, streaming=True)
    with pytest.raises(rcp.UserError, match="no conversation file 'generated'"):
        ConversationDataModule(str(conversations), "generated")

    def fit(data: ConversationDataModule, steps: int = 2, cache: str | None = None,
            **changes: Any) -> None:
        last = tmp_path / "last.ckpt"
        module = training(base_folder, teacher_cache=cache)
        trainer(tmp_path, steps, **changes).fit(
            module, data, ckpt_path=last if last.exists() else None
        )

    for more, message in (
        ({"steps": -1}, "have no end, and trainer.max_steps is not set"),
        ({"val_check_interval": 0.5}, "val_check_interval is 0.5, a share of an epoch"),
        ({"cache": str(tmp_path / "cache"), "val_check_interval": 2}, "model.teacher_cache keeps"),
    ):
        with pytest.raises(rcp.UserError, match=message):
            fit(generated(conversations), **more)
    fit(generated(conversations), val_check_interval=2)
    with pytest.raises(rcp.UserError, match="data.batch_size times processes is 2, but was 4"):
        fit(generated(conversations, batch_size=2), 4, val_check_interval=2)
    fit(generated(conversations), 4, val_check_interval=2)


def test_train_py_knows_the_embedded_scenes(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    assert MAKERS["generated"] is EndlessScenes
    values = settings(base_folder, conversations, tmp_path)
    values["data"] |= {"train": "generated", "seed": 5}
    values["trainer"] |= {"val_check_interval": 2, "check_val_every_n_epoch": None}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    assert train.main(["--config", str(config)]) == 0
    told = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["rcp"]["training"]
    assert told["data"] == {"train": "generated", "turns": "first", "samples": 8,
                            "batch_size": 4, "seed": 5}
    assert {"accuracy", "full_accuracy"} <= set(told["results"])
