# SPDX-License-Identifier: BSD-3-Clause
"""Examples, run small: what each claims, and that its own NumPy parts are right."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

import fastlstm
from examples import charlm, childrens_book, common, dinner, why_gates
from examples.plain_rnn import PlainAdam, PlainRNN
from fastlstm import optim
from tests.problems.comparing import assert_same_bits


def run(example, out, *arguments):
    """What an example's main returns, after a look at its files."""
    result = example.main(["--quick", "--out", str(out), *arguments])
    name = example.__name__.rpartition(".")[2]
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((out / f"{name}.json").read_text())
    assert written == json.loads(json.dumps(result))
    return result


# ---- charlm ------------------------------------------------------------------------------------------------


def test_the_language_model_learns_and_survives_saving(tmp_path, capsys):
    result = run(charlm, tmp_path)
    assert result["untrained_bits"] == pytest.approx(np.log2(96), abs=0.3)
    assert result["held_out_bits"] < result["yardsticks"]["order-0 entropy"] - 0.2
    assert np.mean(result["training_bits"][-20:]) < np.mean(result["training_bits"][:20]) - 1
    assert all(each["gradient_error"] < 1e-5 for each in result["step"].values())
    assert {"fastlstm", "fastlstm.reference"} <= result["step"].keys()
    shown = capsys.readouterr().out
    assert result["sample"] in shown
    assert f"{result['held_out_bits']:.3f}" in shown

    settings = charlm.QUICK
    loaded = charlm.Model(settings, np.random.default_rng(99))
    with np.load(tmp_path / "charlm.npz") as params:
        loaded.load_state_dict(dict(params))
    _, held_out = charlm.read_library(settings, np.random.default_rng(result["seed"]))
    assert loaded.bits(held_out) == result["held_out_bits"]


def test_a_seed_gives_the_same_language_model_again():
    settings = dataclasses.replace(charlm.QUICK, hidden=11, updates=8, held_out=640)
    runs = []
    for seed in (3, 3, 4):
        rng = np.random.default_rng(seed)
        text, held_out = charlm.read_library(settings, rng)
        model = charlm.Model(settings, rng)
        course = charlm.train(model, text, held_out, settings)
        runs.append((course["bits"], course["held_out_bits"], model.write("def ", 30, rng)))
    first, again, other = runs
    assert first == again
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))


def test_text_survives_the_alphabet_and_nothing_held_out_is_trained_on():
    text = charlm.ALPHABET + "\n\n~ ?"
    assert charlm.decode(charlm.encode(text)) == text
    assert charlm.decode(charlm.encode("a\tb\0cé€")) == "a?b?c??"
    read, held_out = charlm.read_library(charlm.QUICK, np.random.default_rng(5))
    assert len(held_out) == charlm.QUICK.held_out
    assert len(read) > 10 * charlm.QUICK.T * charlm.QUICK.B
    # A stretch of the one that also occurs in the other would be a license, not 2000 characters long.
    assert charlm.decode(held_out[3000:5000]) not in charlm.decode(read)


def test_batches_go_on_where_the_last_one_ended():
    text = np.arange(2 * 35 + 1)
    x, targets = charlm.in_rows(text, 2)
    assert x[:4].T.tolist() == [[0, 0, 1, 2], [34, 35, 36, 37]]
    assert targets[:4].T.tolist() == [[0, 1, 2, 3], [35, 36, 37, 38]]
    source = itertools.islice(charlm.batches(text, 10, 2), 5)
    begins = [(int(x[0, 0]), int(t[0, 0]), is_new) for x, t, is_new in source]
    assert begins == [(0, 0, True), (9, 10, False), (19, 20, False), (0, 0, True), (9, 10, False)]
    with pytest.raises(ValueError, match="text: expected at least 72 characters, got 71"):
        next(charlm.batches(text, 36, 2))


def test_bits_do_not_depend_on_how_the_text_is_read(rng):
    model = charlm.Model(charlm.QUICK, rng)
    text = rng.integers(96, size=300)
    assert model.bits(text, B=1, block=7) == pytest.approx(model.bits(text, B=1, block=300), rel=1e-6)


def test_yardsticks_of_text_that_says_nothing():
    same = charlm.encode("aaaaaaaa" * 500)
    yardsticks = charlm.yardsticks(same, same)
    assert yardsticks["order-0 entropy"] == 0
    assert all(bits < 0.2 for bits in yardsticks.values())
    two = charlm.encode("ab" * 500)
    assert charlm.yardsticks(two, two)["order-0 entropy"] == 1


# ---- dinner ------------------------------------------------------------------------------------------------


def test_dinner_is_predicted_through_missing_nights(tmp_path):
    result = run(dinner, tmp_path)
    assert result["losses"][-1] < result["losses"][0] / 50
    counts = {each["case"]: each for each in result["counts"]}
    unseen = counts.pop("9 of 10, without both")
    for each in counts.values():
        assert each["right"] == each["nights"]
        assert each["right_after_missing"] == each["missing"]
    assert counts["only the first is seen"]["longest_gap"] == 299
    # Without any memory it can but guess.
    assert 0.2 < unseen["right_after_missing"] / unseen["missing"] < 0.5


def test_missing_nights_show_the_prediction_alone(rng):
    guest = dinner.Guest(rng)
    meals, tonight, is_missing = dinner.nights(20, 3, 0.6, rng)
    assert_same_bits(tonight[:-1], meals[1:])
    x, scores = guest.live(meals, is_missing)
    assert not x[0, :, :3].any()
    assert_same_bits(x[1:, :, :3].argmax(axis=2), scores[:-1].argmax(axis=2))
    assert not x[is_missing][:, 3:].any()
    assert_same_bits(x[~is_missing][:, 3:].argmax(axis=1), meals[~is_missing])
    # The recorded pass sees what the stream saw.
    recorded = guest.lstm.forward(x)
    assert_same_bits(guest.dense(recorded.y), scores)


def test_the_longest_gap():
    gaps = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0, 1, 1]], bool).T
    assert dinner.longest_gap(gaps) == 3
    assert dinner.longest_gap(gaps[:2]) == 1
    assert dinner.longest_gap(np.zeros((4, 2), bool)) == 0


# ---- childrens_book ----------------------------------------------------------------------------------------


def test_nobody_sees_himself(tmp_path):
    result = run(childrens_book, tmp_path)
    ours = result["summary"][0]
    assert ours["writer"].startswith("LSTM")
    assert ours["sentences"] == 200
    assert ours["bad"]["at 1/2"] == {"sees itself": 0, "runs on": 0, "other": 0}
    assert ours["forbidden_chance"] < 5e-3
    assert len(result["summary"]) == 3


def test_the_book_is_valid_and_its_forbidden_words_are_not(rng):
    book = childrens_book.write_book(300, 2, rng)
    for row in book.T.tolist():
        sentences = [row[i : i + 4] for i in range(0, len(row), 4)]
        assert {childrens_book.fault(sentence) for sentence in sentences} == {None}
        assert len(set(map(tuple, sentences))) == 6
    bad = childrens_book.forbidden(book)
    allowed = (~bad).sum(axis=2)
    assert_same_bits(allowed, np.tile([[3], [1], [2], [1]], (300, 2)))
    for t, b, word in itertools.product(range(4), range(2), range(5)):
        sentence = book[:4, b].copy()
        sentence[t] = word
        if t != 0:  # another first name can make the last one wrong
            assert (childrens_book.fault(sentence.tolist()) is not None) == bad[t, b, word]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Doug saw Jane .", None),
        ("Doug saw Doug .", "sees itself"),
        ("Doug saw Jane saw Spot .", "runs on"),
        ("Doug saw Doug saw Doug saw Doug saw", "runs on"),
        ("Doug saw .", "other"),
        ("saw Doug Jane .", "other"),
        ("Doug saw saw .", "other"),
        (".", "other"),
    ],
)
def test_faults_have_names(text, expected):
    sentence = [childrens_book.WORDS.index(word) for word in text.split()]
    assert childrens_book.fault(sentence) == expected


# ---- why_gates ---------------------------------------------------------------------------------------------


def test_open_gates_keep_the_gradient(tmp_path):
    result = run(why_gates, tmp_path)
    factors, norms = result["factors"], result["norms"]
    assert all(values[0] == pytest.approx(1) for values in norms.values())
    for weights in ("usual", "orthogonal"):
        lstms = [factors[f"LSTM, {weights}, forget bias {bias}"] for bias in (0, 1, 5)]
        assert lstms == sorted(lstms)
        assert lstms[1] > factors[f"plain, {weights}"]
        assert lstms[2] == pytest.approx(1, abs=0.05)
    assert factors["plain, orthogonal"] > factors["plain, usual"]
    assert norms["plain, usual"][50] < 1e-9 < norms["LSTM, usual, forget bias 1"][50]


def test_orthogonal_matrices_are(rng):
    q = why_gates.orthogonal(13, rng)
    np.testing.assert_allclose(q @ q.T, np.eye(13), atol=1e-14)


# ---- The plain network -------------------------------------------------------------------------------------


def test_the_plain_network_has_the_gradients_of_finite_differences(rng):
    T, B, I, H = 6, 3, 4, 5
    network = PlainRNN(I, H, rng, np.float64)
    x = rng.standard_normal((T, B, I))
    dy = rng.standard_normal((T, B, H))
    y = network.forward(x)
    dx = network.backward(x, y, dy)
    for array, gradient in [
        (x, dx),
        *((network.params[name], network.grads[name]) for name in network.params),
    ]:
        expected = np.empty_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            sides = []
            for side in (1e-6, -1e-6):
                array[place] = kept + side
                sides.append((network.forward(x) * dy).sum())
            array[place] = kept
            expected[place] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-8)
    first = network.forward(x[:2])
    assert_same_bits(network.forward(x[2:], first[-1]), y[2:])


def test_its_adam_is_that_of_the_package(rng):
    dense = fastlstm.Dense(3, 2, dtype="float64", rng=rng)
    params = dense.state_dict()
    ours, theirs = PlainAdam(params, 0.01), optim.Adam(dense, 0.01)
    for _ in range(7):
        dense.flat_grads[...] = rng.standard_normal(dense.flat_grads.shape)
        ours.step(dense.grads)
        theirs.step()
    for name, value in dense.params.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-12)


# ---- common ------------------------------------------------------------------------------------------------


def test_tables_are_aligned():
    assert common.table(("name", "n"), [("a", "1"), ("longer", "100")]).splitlines() == [
        "name      n",
        "------  ---",
        "a         1",
        "longer  100",
    ]


def test_progress_passes_everything_on(capsys):
    assert list(common.progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert "counting" in capsys.readouterr().err
