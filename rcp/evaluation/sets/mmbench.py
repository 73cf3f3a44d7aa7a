"""MMBench: lettered options, in every rotation; in English and in Chinese."""

from collections import Counter
from collections.abc import Sequence

from rcp.conversations import Sample
from rcp.conversations.asked import Asked
from rcp.conversations.layouts import Row
from rcp.errors import UserError
from rcp.evaluation.sets.asking import BY_LETTER, asked, lettered
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, optional_text, text, whole


class MmBenchEn(EvaluationSet):
    """The English dev split."""

    name = "mmbench_en"
    title = "MMBench, English, dev"
    hub = Hub("lmms-lab/MMBench", "dev", "en")
    rows = 4_329
    ending = BY_LETTER
    prompt = "{hint}\n{question}\nA. {A}\nB. {B}\n..." + ending
    prompt_source = "LLaVA, llava/eval/model_vqa_mmbench.py"
    metric = "mmbench"
    primary = "circular"
    parsing = (
        "the one letter that stands as a word, else the one option quoted; anything else is wrong, "
        "where the official evaluation asks a language model"
    )
    max_new_tokens = 1024

    def question(self, row: Row) -> Asked:
        options = self.options(row)
        index = whole(row, "index")
        lines = (optional_text(row, "hint"), text(row, "question"), lettered(options))
        answer = text(row, "answer")
        return asked(
            row,
            "\n".join(filter(None, lines)) + self.ending,
            answer,
            {"references": answer, "options": options, "indices": index},
            images=[image(row)],
            kind=optional_text(row, "category"),
            name=str(index),
        )

    @staticmethod
    def options(row: Row) -> list[str]:
        """The options up to the first that is empty: not all questions have four."""
        found = [text(row, "A")]
        for letter in "BCD":
            option = optional_text(row, letter)
            if not option:
                break
            found.append(option)
        return found

    def check(self, samples: Sequence[Sample]) -> None:
        indices = Counter((sample.facts or {})["indices"] for sample in samples)
        index, count = indices.most_common(1)[0]
        if count > 1:
            raise UserError(
                f"The index {index} of MMBench is there {count} times: each rotation of a question "
                "has an index of its own. Get the set anew, or remove the repeated rows."
            )


class MmBenchCn(MmBenchEn):
    """The Chinese dev split."""

    name = "mmbench_cn"
    title = "MMBench, Chinese, dev"
    hub = Hub("lmms-lab/MMBench", "dev", "cn")
    ending = "\n请直接回答选项字母。"
    prompt = "{hint}\n{question}\nA. {A}\nB. {B}\n..." + ending
