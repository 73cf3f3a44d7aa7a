"""Random samples for each metric, as rows in the order of ``update``'s parameters."""

from hypothesis import strategies as st

from rcp.evaluation.metrics import containment, mme, pope, relaxed_accuracy

WORDS = st.sampled_from(["red", "Red.", "the red", "two", "2", "yes", "No", "", "1,000", "a dog"])
SENTENCES = st.sampled_from(["a dog", "a man and a bus", "two hot dogs", "", "baby elephants"])
LETTERS = st.sampled_from(["A", "B", "(C)", "a dog", "", "The answer is B."])
OPTIONS = ["a cat", "a dog", "a bird"]


@st.composite
def pairs_of_images(draw):
    """Both questions of a few images."""
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6))
    category = st.sampled_from(mme.CATEGORIES[:2] + mme.COGNITION[:1])
    categories = {name: draw(category) for name in names}
    rows = [
        (draw(WORDS), truth, categories[name], name) for name in names for truth in ("yes", "no")
    ]
    return draw(st.permutations(rows))


def rows(*columns):
    return st.lists(st.tuples(*columns), max_size=12)


BOXES = st.sampled_from(["[0, 0, 1, 1]", "[0, 0, 2, 1]", "[1, 1, 2, 3]", "nowhere"])
INDICES = st.integers(0, 3).flatmap(lambda q: st.sampled_from([q, q + 1_000_000, q + 2_000_000]))

SAMPLES = {
    "anls": rows(WORDS, st.lists(WORDS, min_size=1, max_size=3)),
    "box_accuracy": rows(BOXES, st.just((0, 0, 2, 1))),
    "chair": rows(SENTENCES, st.lists(SENTENCES, max_size=3)),
    "containment": rows(
        WORDS, st.just(["red", "2"]), st.sampled_from([containment.FORMULAS, "docVQA"])
    ),
    "exact_match": rows(WORDS, WORDS, st.sampled_from(["colour", "count"])),
    "letter_choice": rows(LETTERS, st.sampled_from("ABC"), st.just(OPTIONS)),
    "mmbench": rows(LETTERS, st.sampled_from("ABC"), st.just(OPTIONS), INDICES),
    "mme": pairs_of_images(),
    "pope": rows(WORDS, st.sampled_from(["yes", "no"]), st.sampled_from(pope.SPLITS)),
    "relaxed_accuracy": rows(
        WORDS, st.sampled_from(["2", "red"]), st.sampled_from(relaxed_accuracy.SPLITS)
    ),
    "vqa_evalai": rows(WORDS, st.lists(WORDS, min_size=10, max_size=10)),
    "vqa_v2": rows(WORDS, st.lists(WORDS, min_size=10, max_size=10)),
}
