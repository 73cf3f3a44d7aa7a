"""The glossary stays short, and points at what is there."""

import re

from tests.documents import ROOT, read

MOST = 15


def test_every_row_points_at_what_is_there():
    rows = re.findall(r"^\| ([a-z ]+) \| (.+) \| (.+) \|$", read("docs/glossary.md"), re.MULTILINE)
    rows = [row for row in rows if row[0] != "word"]
    assert 0 < len(rows) <= MOST and len({word for word, *_ in rows}) == len(rows)
    for word, _, where in rows:
        *name, path = re.findall(r"`([^`]+)`", where)
        assert (ROOT / path).exists(), word
        assert all(re.search(rf"^class {one}\b", read(path), re.MULTILINE) for one in name), word
