"""Video-MME: lettered questions about videos of seconds to an hour, without subtitles."""

from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.evaluation.sets.asking import asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import frames, optional_text, text, texts

TASK = (
    "Select the best answer to the following multiple-choice question based on the video. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)


class VideoMme(EvaluationSet):
    """The test split; the frames of each row's video are in a column that the user adds."""

    name = "video_mme"
    title = "Video-MME, without subtitles"
    hub = Hub("lmms-lab/Video-MME", "test", "videomme")
    beside_hub = "its videos lie in archives, which nothing here decodes"
    rows = 2_700
    prompt = TASK + "\n{question}\n{options, lettered as published}\nThe best answer is:"
    prompt_source = "Video-MME, README.md"
    metric = "letter_choice"
    arguments = {"rule": "first_capital"}
    primary = "accuracy"
    parsing = (
        "the first capital that is an option's, usual openings left out; anything else is wrong"
    )
    max_new_tokens = 16
    image_folder = "frames"

    def question(self, row: Row) -> Asked:
        options = texts(row, "options")  # "A. Black."
        answer = text(row, "answer")
        return asked(
            row,
            "\n".join([TASK, text(row, "question"), *options, "The best answer is:"]),
            answer,
            {"references": answer, "options": options},
            images=frames(row),
            kind=optional_text(row, "duration"),
        )
