"""Roles of columns."""

import torch

from rcp.choosing.tokens import build_token_map, continuation_map


def test_question_is_what_follows_the_last_image_and_answers_are_the_rows_that_predict():
    #            bos  img img txt img img q q a a eos pad
    image = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0]]).bool()
    valid = torch.tensor([[1] * 11 + [0]]).bool()
    labels = torch.full((1, 12), -100)
    labels[0, 8:11] = 5
    tokens = build_token_map(image, valid, labels=labels)
    assert tokens.question[0].nonzero()[:, 0].tolist() == [6, 7]
    assert tokens.answer[0].nonzero()[:, 0].tolist() == [7, 8, 9]
    assert tokens.image_index[0].tolist() == [0, 0, 1, 1]


def test_without_labels_the_whole_forward_is_the_prompt():
    image = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]).bool()
    tokens = build_token_map(image, valid)
    assert tokens.answer.nonzero().tolist() == [[0, 3], [1, 3]]
    assert tokens.question_columns[0].tolist() == [2, 3]
    assert tokens.question_valid.tolist() == [[True, True], [True, False]]


def test_text_before_the_image_is_the_question_where_nothing_follows():
    image = torch.tensor([[0, 0, 1, 1]]).bool()
    tokens = build_token_map(image, torch.ones(1, 4, dtype=torch.bool))
    assert tokens.question[0].tolist() == [True, True, False, False]


def test_places_in_a_square_image_and_in_one_that_is_none():
    image = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 0]]).bool()
    tokens = build_token_map(image, torch.ones(1, 8, dtype=torch.bool))
    assert tokens.grid[0, :4].tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert tokens.grid[0, 4:].tolist() == [[0.0, -0.5], [0.0, 0.5]]


def test_a_continuation_predicts_from_its_last_valid_row():
    valid = torch.tensor([[True, True, False], [True, True, True]])
    tokens = continuation_map(valid)
    assert tokens.answer.nonzero().tolist() == [[0, 1], [1, 2]]
    assert not tokens.has_images
