"""The annotations of MS COCO: captions, and the objects of the instances, by image."""

from typing import Any

Row = dict[str, Any]


def images_of(captions: Row, instances: Row) -> list[Any]:
    """A row for each image of ``captions``: its file, its captions, and its objects by name.

    Both are contents of annotation files. What is not as published is left as it stands, for the
    reader to judge; an image of which nothing is noted has empty lists.
    """
    names = {one.get("id"): one.get("name") for one in _listed(instances, "categories")}
    said: dict[Any, list[Any]] = {}
    for one in _listed(captions, "annotations"):
        said.setdefault(one.get("image_id"), []).append(one.get("caption"))
    seen: dict[Any, dict[Any, None]] = {}
    for one in _listed(instances, "annotations"):
        seen.setdefault(one.get("image_id"), {})[names.get(one.get("category_id"))] = None
    return [
        {
            **image,
            "image": image.get("file_name"),
            "captions": said.get(image.get("id"), []),
            "objects": list(seen.get(image.get("id"), {})),
        }
        for image in _listed(captions, "images")
    ]


def _listed(content: Row, name: str) -> list[Row]:
    held = content.get(name)
    return [entry for entry in held if isinstance(entry, dict)] if isinstance(held, list) else []
