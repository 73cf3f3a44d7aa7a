"""A list of synonyms of our own; the official one is not shipped."""

import pytest

SYNONYMS = """\
person, man, woman, child, baby, rider
dog, puppy
elephant
bus
chair, seat
toilet
hot dog
traffic light, stop light
knife
couch, sofa
tie
"""


@pytest.fixture(scope="session")
def synonyms(tmp_path_factory):
    """The file, in the format of data/synonyms.txt of LisaAnne/Hallucination."""
    path = tmp_path_factory.mktemp("chair") / "synonyms.txt"
    path.write_text(SYNONYMS, "utf-8")
    return path
