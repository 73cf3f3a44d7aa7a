"""Figures worked out by hand, from rows of each set and answers that are partly right."""

import math

import pytest

from rcp.evaluation.metrics.mme import CATEGORIES, PERCEPTION
from rcp.evaluation.sets.door import open_questions
from tests.sets.published import ONE, ROWS

BY_HAND = {
    # for either "dark" left out 1 match of 3, for any other one 2: (2/3 + 16/3) / 10; and the
    # official rules make "2" of a prediction "two", but not of ten equal answers
    "vqav2": (["Dark.", "two"], {"accuracy": (0.6 + 0.0) / 2}, [0.6, 0.0]),
    "gqa": (["Yes.", "shirt"], {"accuracy": 0.5, "accuracy_verify": 1, "accuracy_query": 0},
            [1, 0]),
    "textvqa": (["The Dakota!", "stop"], {"accuracy": (1 + 0.6) / 2}, [1.0, 0.6]),
    "vizwiz": (["unanswerable", "dark red"], {"accuracy": (1 + 0.3) / 2}, [1.0, 0.3]),
    # F1 of the splits: 2/3, 0 and 1; of all answers together it would be 2/3
    "pope": (
        ["yes", "Yes, two", "No.", "not at all", "yes", "no"],
        {"f1": 5 / 9, "f1_adversarial": 2 / 3, "f1_popular": 0, "f1_random": 1,
         "accuracy": 2 / 3, "yes_ratio": (1 + 0 + 0.5) / 3},
        [1, 0, 0, 1, 1, 1],
    ),
    "mmbench_en": (["A", "A", "D. four"], {"circular": 0.5, "vanilla": 1, "unparsable": 0},
                   [1, 0, 1]),
    "mmbench_cn": (["答案是 A", "B", "?"], {"circular": 0.5, "unparsable": 1 / 3}, [1, 1, 0]),
    # one of three options might be guessed
    "scienceqa": (["B. two", "the word"],
                  {"accuracy": 0.5, "unparsable": 0.5, "accuracy_if_guessed": 0.5 + 1 / 6}, [1, 0]),
    "scienceqa_img": (["A"], {"accuracy": 0}, [0]),
    "seed_image": (["b", "(C) three"], {"accuracy": 0.5, "unparsable": 0}, [1, 0]),
    # an open answer is never drawn
    "mmmu": (["(B)", "I do not know", "It is two."],
             {"accuracy": 2 / 3, "accuracy_if_guessed": 2 / 3 + 1 / 9, "unparsable": 1 / 3},
             [1, 0, 1]),
    "mmstar": (["The answer is A", "?"], {"accuracy": 0.5, "unparsable": 0.5}, [1, 0]),
    "ai2d": (["D", "D"], {"accuracy": 0.5}, [1, 0]),
    "realworldqa": (["b) dark", "2."], {"accuracy": 1, "accuracy_words": 1}, [1, 1]),
    "mvbench": (["(B) dark"], {"accuracy": 1}, [1]),
    "video_mme": (["The best answer is C."], {"accuracy": 1}, [1]),
    "docvqa": (["9 May"], {"anls": 0.8}, [0.8]),
    "infovqa": (["5"], {"anls": 0}, [0]),  # a third of its length
    # 3.6 % off, and 5.3 %
    "chartqa": (["14.5", "dark", "0.6"],
                {"accuracy": 2 / 3, "accuracy_human": 1, "accuracy_augmented": 0}, [1, 1, 0]),
    "ocrbench": (["it reads centre", "X=2"], {"right": 1, "accuracy": 0.5}, [1, 0]),
    # the box is 5 to 15 of 20 and 2 to 6 of 10: pixels are no shares
    "refcoco_testA": (["it is [0.25, 0.2, 0.65, 0.6]", "[5, 2, 15, 6]", "left"],
                      {"accuracy": 1 / 3, "unparsable": 1 / 3, "mean_iou": 0.8 / 3}, [1, 0, 0]),
    # a dog, a couch and a bus are there, a man is not
    "chair": (["A man and his dog.", "A field."], {"chair_s": 0.5, "chair_i": 0.5, "recall": 1 / 3},
              [1 / 3, 1.0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_figures_by_hand(name, as_json):
    answers, figures, scores = BY_HAND[name]
    dataset, scoring = open_questions(name, as_json(name))
    found = scoring.figures(answers, dataset.samples)
    assert {key: found[key] for key in figures} == pytest.approx(figures, abs=1e-6)
    assert scoring.primary in figures or name in ("mmbench_cn",)
    own = [scoring.score(*pair) for pair in zip(answers, dataset.samples)]
    assert own == pytest.approx(scores)


def whole_mme():
    return [
        {"question_id": f"{category}/{n}", "image": ONE, "category": category, "answer": answer,
         "question": f"Is it {answer}? Please answer yes or no."}
        for category in CATEGORIES for n in range(2) for answer in ("Yes", "No")
    ]


def test_mme_sums_its_categories(as_json):
    """Four questions a category; in "count" one is answered wrongly: 75 + 50 of 200."""
    dataset, scoring = open_questions("mme", as_json("mme", whole_mme()))
    answers = [sample.answer for sample in dataset.samples]
    wrong = [sample.question_type for sample in dataset.samples].index("count")
    answers[wrong] = "no"
    found = scoring.figures(answers, dataset.samples)
    assert found["perception"] == pytest.approx(200 * len(PERCEPTION) - 75)
    assert found["cognition"] == 800.0
    assert found[scoring.primary] == pytest.approx(2800 - 75)
    assert (found["accuracy_count"], found["accuracy_plus_count"]) == (0.75, 0.5)
    assert [scoring.score(*pair) for pair in zip(answers, dataset.samples)].count(0.0) == 1


def test_an_image_of_mme_with_one_answer_is_left_out(as_json, caplog):
    """As where the other question could not be read, or --limit cut between them."""
    dataset, scoring = open_questions("mme", as_json("mme", whole_mme()))
    samples = dataset.samples[:-1]
    found = scoring.figures([sample.answer for sample in samples], samples)
    assert found[scoring.primary] == 2800.0
    assert "1 of 55 questions of MME are about images whose other question has no answer" in (
        caplog.text
    )


def test_an_image_of_mme_has_its_category(as_json):
    """Images of different categories may have one name."""
    rows = [{**row, "question_id": row["question_id"].split("/")[1]} for row in whole_mme()]
    dataset, scoring = open_questions("mme", as_json("mme", rows))
    found = scoring.figures([sample.answer for sample in dataset.samples], dataset.samples)
    assert found[scoring.primary] == 2800.0


def test_a_split_of_pope_without_answers_leaves_no_mean(as_json):
    dataset, scoring = open_questions("pope", as_json("pope"))
    found = scoring.figures(["yes", "no"], dataset.samples[:2])
    assert math.isnan(found["f1"]) and found["f1_adversarial"] == 1.0


def test_the_two_textvqas_differ_in_their_prompt_alone(as_json):
    without, _ = open_questions("textvqa", as_json("textvqa"))
    with_tokens, _ = open_questions("textvqa_ocr", as_json("textvqa_ocr"))
    asked = without.samples[0].question
    assert "OCR" not in asked
    reference = "\nReference OCR token: DAKOTA, DIGITAL\nAnswer"
    assert with_tokens.samples[0].question == asked.replace("\nAnswer", reference)


PROMPTS = {
    "vqav2": "<image>\nwhat is the red ?\nAnswer the question using a single word or phrase.",
    "vizwiz": "<image>\nWhat is this?\nWhen the provided information is insufficient, respond with "
              "'Unanswerable'.\nAnswer the question using a single word or phrase.",
    "mme": "<image>\nIs it red?\nAnswer the question using a single word or phrase.",
    "mmbench_en": "<image>\nwhat is red ?\nA. red\nB. dark\nAnswer with the option's letter from "
                  "the given choices directly.",
    "mmbench_cn": "<image>\nwhat is red ?\nA. red\nB. dark\n请直接回答选项字母。",
    "scienceqa": "<image>\nContext: Two are red.\nWhich is red?\nA. one\nB. two\nAnswer with the "
                 "option's letter from the given choices directly.",
    "mmmu": "What is in <image> ?\nA. red\nB. it's dark\n\nAnswer with the option's letter from "
            "the given choices directly.",
    "ocrbench": "<image>\nwhat is written in the image?",
    "mvbench": "<image><image>\nQuestion:What moves?\nOption:\n(A) red\n(B) dark\n(C) two\nOnly "
               "give the best option.",
    "chair": "<image>\nPlease describe this image in detail.",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_word_by_word(name, as_json):
    dataset, _ = open_questions(name, as_json(name))
    assert dataset.samples[0].question == PROMPTS[name]


def test_a_question_without_an_image_is_asked_as_text(as_json):
    dataset, _ = open_questions("scienceqa", as_json("scienceqa"))
    assert dataset.samples[1].images == ()
    assert dataset.samples[1].question.startswith("Which is a word?\nA. red")
    assert len(open_questions("scienceqa_img", as_json("scienceqa_img"))[0]) == 1


def test_images_of_mmmu_stand_where_they_are_first_mentioned(as_json):
    dataset, _ = open_questions("mmmu", as_json("mmmu"))
    asked = dataset.samples[1].question
    assert asked.startswith("See <image>. Which is alike?\nA. <image>\nB. <image>\nC. image 1\n")
    colours = [image.getpixel((0, 0)) for image in dataset[1].images]
    assert colours == [(200, 20, 20), (20, 200, 20), (20, 20, 200)]


def test_open_questions_of_mmmu_may_have_several_answers(as_json):
    row = {**ROWS["mmmu"][2], "answer": "['24/7', '3.43']"}
    dataset, scoring = open_questions("mmmu", as_json("mmmu", [row, *ROWS["mmmu"]]))
    asked = dataset.samples[0]
    assert asked.question == (
        "How many in <image>?\n\nAnswer the question using a single word or phrase."
    )
    right, wrong = ("24/7", "3.429", "x = 3.43"), ("24", "anything else", "A")
    assert [scoring.score(said, asked) for said in (*right, *wrong)] == [1.0] * 3 + [0.0] * 3
