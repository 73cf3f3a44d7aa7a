"""Kinds of questions beyond one word about one scene: each a file that makes examples.

``python -m data.generate --kind NAME`` writes them; :data:`KINDS` knows them by name.
"""

from data.kinds import (
    captions,
    clips,
    comparisons,
    demonstrations,
    dialogues,
    mosaics,
    places,
    strings,
)
from data.kinds.example import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (strings.KIND, places.KIND, captions.KIND, comparisons.KIND, demonstrations.KIND,
                 clips.KIND, mosaics.KIND, dialogues.KIND)
}
