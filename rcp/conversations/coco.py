"""The annotations of MS COCO: captions, and the objects of the instances, by image."""

from typing import Any

Row = dict[str, Any]


def images_of(captions: Row, instances: Row) -> list[Any]:
    """A row for each image of ``captions``: its file, its captions, and its objects by name.

    Both are contents of annotation files. What is not as published is left as it stands, for the
    reader to judge; an image of which nothing is noted has empty lists.
    """
    names = {_key(one, "id"): one.get("name") for one in _listed(instances, "categories")}
    said: dict[str, list[Any]] = {}
    for one in _listed(captions, "annotations"):
        said.setdefault(_key(one, "image_id"), []).append(one.get("caption"))
    seen: dict[str, list[Any]] = {}
    for one in _listed(instances, "annotations"):
        objects = seen.setdefault(_key(one, "image_id"), [])
        name = names.get(_key(one, "category_id"))
        if name not in objects:
            objects.append(name)
    return [
        {
            **image,
            "image": image.get("file_name"),
            "captions": said.get(_key(image, "id"), []),
            "objects": seen.get(_key(image, "id"), []),
        }
        for image in _listed(captions, "images")
    ]


def _key(row: Row, name: str) -> str:
    """What ``row`` holds under ``name``, whatever that is, as a key."""
    return str(row.get(name))


def _listed(content: Row, name: str) -> list[Row]:
    held = content.get(name)
    return [entry for entry in held if isinstance(entry, dict)] if isinstance(held, list) else []
