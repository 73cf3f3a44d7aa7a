"""Folders with a few rows of a set, as files and as tables."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from rcp.evaluation.sets.base import SETS, Hub
from tests.sets.published import ROWS, SYNONYMS, Row, as_files, as_images

Placed = Callable[..., Path]


@pytest.fixture
def as_json(tmp_path: Path) -> Placed:
    """Puts rows of a set into a folder as NAME.json, its images beside it; returns the folder."""

    def put(name: str, rows: list[Row] | None = None) -> Path:
        given = ROWS[name] if rows is None else rows
        root = tmp_path / f"{name}-files"
        stored = as_files(given, root / SETS.get(name).image_folder)
        (root / f"{name}.json").write_text(json.dumps(stored), "utf-8")
        (root / "synonyms.txt").write_text(SYNONYMS, "utf-8")
        return root

    return put


@pytest.fixture
def as_table(tmp_path: Path) -> Placed:
    """Puts them there as the hub's parquet files lie; returns the folder."""

    def put(name: str, rows: list[Row] | None = None) -> Path:
        root, cls = tmp_path / f"{name}-table", SETS.get(name)
        given = ROWS[name] if rows is None else rows
        if cls.images_of_hub is not None:
            given, images = apart(given)
            write(table(images), root, cls.images_of_hub)
        write(table(given), root, cls.hub)
        (root / "synonyms.txt").write_text(SYNONYMS, "utf-8")
        return root

    return put


def write(rows: datasets.Dataset, root: Path, hub: Hub) -> None:
    """``rows`` where the hub's files lie in its repository."""
    folder = root / (hub.configuration or "data")
    folder.mkdir(parents=True)
    rows.to_parquet(folder / f"{hub.split}-00000-of-00001.parquet")


def apart(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """GQA's questions, and the images that they name."""
    images = {row["imageId"]: row["image"] for row in rows}
    questions = [{name: row[name] for name in row if name != "image"} for row in rows]
    return questions, [{"id": name, "image": image} for name, image in images.items()]


def table(rows: list[Row]) -> datasets.Dataset:
    """``rows`` as ``datasets`` holds them, images encoded."""
    return datasets.Dataset.from_list(as_images(rows))
