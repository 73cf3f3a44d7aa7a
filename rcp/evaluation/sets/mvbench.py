"""MVBench: twenty tasks of lettered questions about short videos."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import asked, letter_of
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import frames, optional_text, text, texts


class MvBench(EvaluationSet):
    """All tasks; the frames of each row's clip are in a column that the user adds."""

    name = "mvbench"
    title = "MVBench, 20 tasks"
    hub = Hub("OpenGVLab/MVBench", "train", "action_sequence")
    beside_hub = (
        "its 20 tasks are configurations of their own, and its videos lie in archives, which "
        "nothing here decodes"
    )
    rows = 4_000
    prompt = "Question:{question}\nOption:\n(A) {A}\n(B) {B}\n...\nOnly give the best option."
    prompt_source = "lmms-eval, tasks/mvbench; the last sentence is MVBench's"
    metric = "letter_choice"
    arguments = {"rule": "first_letter"}
    primary = "accuracy"
    parsing = "the letter that the answer starts with; anything else is wrong"
    max_new_tokens = 16
    image_folder = "frames"
    unverified = "number of rows: 20 tasks of 200"

    def question(self, row: Row) -> Asked:
        options = texts(row, "candidates")
        right = text(row, "answer")
        answer = letter_of(options.index(right) if right in options else -1, options)
        listed = "\n".join(f"({chr(65 + n)}) {option}" for n, option in enumerate(options))
        return asked(
            row,
            f"Question:{text(row, 'question')}\nOption:\n{listed}\nOnly give the best option.",
            answer,
            {"references": answer, "options": options},
            images=frames(row),
            kind=optional_text(row, "task"),
        )
