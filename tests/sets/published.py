"""A few rows of each set, in its own columns, as the hub has them; images are colours to be drawn.

The references are made up. What is expected of them is worked out by hand in the tests.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (20, 10)
RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)
Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """Stands in a row where an image belongs."""

    colour: tuple[int, int, int] = RED

    def drawn(self) -> Image.Image:
        return Image.new("RGB", SIZE, self.colour)


def ten(*answers: str) -> list[str]:
    """Ten answers, the last one again and again."""
    return [*answers, *[answers[-1]] * (10 - len(answers))]


ONE = Picture()
VQA = {
    "question_id": 7, "image_id": 42, "image": ONE, "question": "what is the red ?",
    "question_type": "what is", "answer_type": "other", "multiple_choice_answer": "dark",
}
MMBENCH = {"question": "what is red ?", "hint": "nan", "image": ONE, "category": "colour",
           "L2-category": "x", "source": "x", "comment": "", "split": "dev"}
SEED = {"question": "what is red ?", "choice_a": "one", "choice_b": "two", "choice_c": "three",
        "choice_d": "four", "answer": "B", "data_id": "1", "question_type_id": 1, "segment": None}
MMMU = {f"image_{number}": None for number in range(1, 8)} | {
    "explanation": "", "img_type": "", "topic_difficulty": "Easy", "subfield": "Algebra",
    "question_type": "multiple-choice",
}
REFERRED = {"question": "Please describe it", "segmentation": [1.0, 2.0], "iscrowd": 0,
            "file_name": "COCO_train2014_000000000001_0.jpg", "image": ONE}

ROWS: dict[str, list[Row]] = {
    "vqav2": [
        {**VQA, "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": n}
                            for n, answer in enumerate(ten("dark", "dark", "light"), 1)]},
        {**VQA, "question_id": 8, "answer_type": "number", "question": "how many ?",
         "answers": [{"answer": "two", "answer_confidence": "yes", "answer_id": n}
                     for n in range(1, 11)]},
    ],
    "gqa": [
        {"id": "201", "imageId": "n1", "question": "Is it red?", "answer": "yes",
         "isBalanced": True, "types": {"detailed": "x", "semantic": "attr", "structural": "verify"},
         "image": ONE},
        {"id": "202", "imageId": "n1", "question": "What is it?", "answer": "t-shirt",
         "isBalanced": True, "types": {"detailed": "x", "semantic": "obj", "structural": "query"},
         "image": ONE},
    ],
    "textvqa": [
        {"image_id": "a1", "question_id": 34602, "question": "what is the brand?", "image": ONE,
         "answers": ten("dakota"), "ocr_tokens": ["DAKOTA", "DIGITAL"], "set_name": "val"},
        {"image_id": "a2", "question_id": 34603, "question": "what does it say?", "image": ONE,
         "answers": ten("stop", "stop", "no"), "ocr_tokens": [], "set_name": "val"},
    ],
    "vizwiz": [
        {"question_id": "VizWiz_val_0.jpg", "image": ONE, "question": "What is this?",
         "answers": ten("unanswerable"), "category": "unanswerable"},
        {"question_id": "VizWiz_val_1.jpg", "image": ONE, "question": "Which colour?",
         "answers": ten("red", "dark red", "red"), "category": "other"},
    ],
    "pope": [
        {"id": str(number), "question_id": "1", "question": "Is there a cat in the image?",
         "answer": answer, "image_source": "COCO_val2014_1", "image": ONE, "category": split}
        for number, (split, answer) in enumerate(
            (split, answer)
            for split in ("adversarial", "popular", "random") for answer in ("yes", "no")
        )
    ],
    "mme": [
        {"question_id": f"{category}/{name}.png", "image": ONE, "category": category,
         "question": f"Is it {word}? Please answer yes or no.", "answer": answer}
        for category, name in (("count", "1"), ("code_reasoning", "1"))
        for word, answer in (("red", "Yes"), ("blue", "No"))
    ],
    "mmbench_en": [
        {**MMBENCH, "index": 3, "A": "red", "B": "dark", "C": "nan", "D": "nan", "answer": "A"},
        {**MMBENCH, "index": 1_000_003, "A": "dark", "B": "red", "C": "nan", "D": "nan",
         "answer": "B", "hint": "Look."},
        {**MMBENCH, "index": 5, "A": "one", "B": "two", "C": "three", "D": "four", "answer": "D"},
    ],
    "scienceqa": [
        {"image": ONE, "question": "Which is red?", "choices": ["one", "two"], "answer": 1,
         "hint": "Two are red.", "subject": "natural science", "grade": "grade2"},
        {"image": None, "question": "Which is a word?", "choices": ["red", "3", "?"], "answer": 0,
         "hint": "", "subject": "language science", "grade": "grade3"},
    ],
    "seed_image": [
        {**SEED, "question_id": "1", "data_type": "image", "image": [ONE]},
        {**SEED, "question_id": "2", "data_type": "video", "image": [ONE, ONE]},
        {**SEED, "question_id": "3", "data_type": "image", "image": [ONE], "answer": "D"},
    ],
    "mmmu": [
        {**MMMU, "id": "validation_Math_1", "question": "What is in <image 1> ?", "answer": "B",
         "options": "['red', \"it's dark\"]", "image_1": ONE},
        {**MMMU, "id": "validation_Math_2", "question": "See <image 1>. Which is alike?",
         "options": "['<image 2>', '<image 3>', '<image 1>']", "answer": "A",
         "image_1": ONE, "image_2": Picture(GREEN), "image_3": Picture(BLUE)},
        {**MMMU, "id": "validation_Math_3", "question": "How many in <image 1>?", "options": "[]",
         "answer": "two", "image_1": ONE, "question_type": "open"},
    ],
    "mmstar": [
        {"index": number, "question": "Which?\nOptions: A: red, B: dark, C: two, D: one",
         "image": ONE, "answer": answer, "category": "math", "l2_category": "geometry",
         "meta_info": {"source": "x"}}
        for number, answer in enumerate("AD")
    ],
    "ai2d": [
        {"question": "What is A?", "options": ["red", "dark", "two", "one"], "answer": "3",
         "image": ONE},
        {"question": "What is B?", "options": ["red", "dark", "two", "one"], "answer": "0",
         "image": ONE},
    ],
    "realworldqa": [
        {"image_path": "0.webp", "question": "Which?\n\nA. red\nB. dark\nPlease answer directly "
         "with only the letter of the correct option and nothing else.", "answer": "B",
         "image": ONE},
        {"image_path": "1.webp", "question": "How many? Please answer directly with a single word "
         "or number.", "answer": "2", "image": ONE},
    ],
    "mvbench": [
        {"video": "166583.webm", "question": "What moves?", "candidates": ["red", "dark", "two"],
         "answer": "dark", "task": "moving_count", "frames": [ONE, Picture(GREEN)]},
    ],
    "video_mme": [
        {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law",
         "url": "x", "videoID": "fFjv93ACGo8", "question_id": "001-1", "task_type": "Counting",
         "question": "When?", "options": ["A. Red.", "B. Dark.", "C. Two.", "D. One."],
         "answer": "C", "frames": [ONE, Picture(GREEN), Picture(BLUE)]},
    ],
    "docvqa": [
        {"questionId": "49153", "question": "What is the date?", "question_types": ["handwritten"],
         "image": ONE, "docId": 1, "ucsf_document_id": "p", "ucsf_document_page_no": "1",
         "answers": ["8 May", "may 8th"], "data_split": "val"},
    ],
    "infovqa": [
        {"questionId": "70000", "question": "How much?", "answers": ["50%"], "answer_type": ["x"],
         "image": ONE, "image_url": "x", "operation/reasoning": ["Counting"], "ocr": "[]",
         "data_split": "val"},
    ],
    "chartqa": [
        {"type": "human_test", "question": "How many?", "answer": "14", "image": ONE},
        {"type": "human_test", "question": "Which?", "answer": "Dark", "image": ONE},
        {"type": "augmented_test", "question": "What share?", "answer": "0.57", "image": ONE},
    ],
    "ocrbench": [
        {"dataset": "IIIT5K", "question": "what is written in the image?", "image": ONE,
         "question_type": "Regular Text Recognition", "answer": ["CENTRE"]},
        {"dataset": "HME100k", "question": "Please write out the expression.", "image": ONE,
         "question_type": "Handwritten Mathematical Expression Recognition", "answer": ["x = 2"]},
    ],
    "refcoco_testA": [
        {**REFERRED, "question_id": "1", "answer": ["left man", "man in red"],
         "bbox": [5.0, 2.0, 10.0, 4.0]},
        {**REFERRED, "question_id": "2", "answer": ["dog"], "bbox": [0.0, 0.0, 20.0, 5.0]},
    ],
    "chair": [
        {"id": 1, "image": ONE, "captions": ["A dog on a sofa.", "A puppy."], "objects": ["bus"]},
        {"id": 2, "image": Picture(GREEN), "captions": ["Nothing but a field."], "objects": []},
    ],
}
ROWS |= {
    "mmbench_cn": ROWS["mmbench_en"],
    "scienceqa_img": ROWS["scienceqa"],
    "textvqa_ocr": ROWS["textvqa"],
    **{
        name: ROWS["refcoco_testA"]
        for name in ("refcoco_val", "refcoco_testB", "refcoco+_val", "refcoco+_testA",
                     "refcoco+_testB", "refcocog_val", "refcocog_test")
    },
}

SYNONYMS = "person, man\ndog, puppy\nbus\ncouch, sofa\n"


def with_images(rows: list[Row], put: Any) -> list[Row]:
    """``rows`` with each picture as ``put`` stores it."""

    def stored(value: Any) -> Any:
        if isinstance(value, Picture):
            return put(value)
        return list(map(stored, value)) if isinstance(value, list) else value

    return [{name: stored(value) for name, value in row.items()} for row in rows]


def as_files(rows: list[Row], folder: Path) -> list[Row]:
    """``rows`` with their images as files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)

    def put(picture: Picture) -> str:
        name = "-".join(map(str, picture.colour)) + ".png"
        picture.drawn().save(folder / name)
        return name

    return with_images(rows, put)


def as_images(rows: list[Row]) -> list[Row]:
    """``rows`` with their images as ``datasets`` takes them."""
    return with_images(rows, lambda picture: picture.drawn())
