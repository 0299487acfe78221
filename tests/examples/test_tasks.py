# SPDX-License-Identifier: BSD-3-Clause
"""The examples reber, adding and translator at small sizes: data, gradients, learning."""

from __future__ import annotations

import collections
import json
import re

import numpy as np
import pytest

from examples import adding, reber, translator
from examples.translator_model import Attention, Translator
from fastlstm import optim

# The Reber grammar as a regular expression, by hand.
REST = "(?:XT*VP)*(?:S|XT*VV)E"
REBER = re.compile(f"B([TP])B(?:TS*X{REST}|PT*V(?:P{REST}|VE))\\1E")


def assert_results(folder, name):
    """The run of an example left its figures and its plot; return the figures."""
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


# ---- Reber -------------------------------------------------------------------------------------------------


def test_reber_strings_are_those_of_the_grammar(rng):
    after = collections.defaultdict(collections.Counter)
    for _ in range(3000):
        string, legal = reber.draw(rng)
        assert REBER.fullmatch(string)
        assert len(legal) == len(string) - 1
        for n, symbols in enumerate(legal, 1):
            assert string[n] in symbols
            after[string[:n], symbols][string[n]] += 1
    # What may come is what does come, about equally often.
    frequent = {key: counts for key, counts in after.items() if counts.total() >= 100}
    assert len(frequent) > 20
    assert all(set(counts) == set(symbols) for (_, symbols), counts in frequent.items())
    assert all(min(counts.values()) > 0.3 * max(counts.values()) for counts in frequent.values())


def test_reber_test_sees_each_mistake():
    """Outputs made by hand: right everywhere, then wrong at one place."""
    batch = reber.encode([("BTBTXSETE", ["TP", "B", "TP", "SX", "XS", "E", "T", "E"])])

    def outputs(x, lengths):
        return shown, None

    shown = np.where(batch.legal, 1.0, 0.0)
    assert reber.test(outputs, lambda y: y, batch) == (1, 1)
    shown[3, 0, reber.SYMBOLS.index("V")] = 1  # as large as the legal ones
    assert reber.test(outputs, lambda y: y, batch) == (0, 1)
    shown[6, 0, reber.SYMBOLS.index("P")] = 2
    assert reber.test(outputs, lambda y: y, batch) == (0, 0)


def test_reber_is_solved():
    result = reber.train(0, max_strings=6000, num_tests=300, num_afterwards=1000)
    assert result["solved_at"] is not None
    assert result["checks"][0][2] < 0.9  # the symbol before the last, at first
    assert result["checks"][-1][1:] == (1, 1)
    assert result["right_afterwards"] > 0.98
    assert result["far_right_afterwards"] > 0.98


# ---- Adding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [22, 101])
def test_adding_sequences(rng, num_steps):
    x, target = adding.draw(rng, num_steps, 1000)
    assert (x.dtype, target.dtype) == (np.float32, np.float32)
    assert (x.shape, target.shape) == ((num_steps, 1000, 2), (1000, 1))
    numbers, marks = x[..., 0], x[..., 1]
    assert np.abs(numbers).max() <= 1
    assert (marks[[0, -1]] == -1).all()
    assert ((marks == 1).sum(axis=0) == 2).all()
    assert (marks[1:-1] >= 0).all()
    places = np.sort(np.argsort(-marks, axis=0, kind="stable")[:2], axis=0)
    assert places[0].max() < 10
    assert places[1].max() == num_steps // 2 - 1
    np.testing.assert_allclose(target[:, 0], 0.5 + (numbers * (marks == 1)).sum(axis=0) / 4, atol=1e-6)
    assert target.var() == pytest.approx(1 / 24, rel=0.2)


def test_adding_is_solved():
    result = adding.train(3, 30, max_updates=2500, half_life=400, num_tests=500)
    assert result["solved_at"] is not None
    assert result["checks"][-1] == (result["solved_at"], 0)
    assert result["wrong_afterwards"] < 26  # one in a hundred
    assert np.mean(result["loss"][:50]) > 1 / 30
    assert np.mean(result["loss"][-50:]) < 1e-3


def test_adding_is_repeatable():
    first, again, other = (adding.train(seed, 22, max_updates=20, half_life=400) for seed in (1, 1, 2))
    assert first["loss"] == again["loss"] != other["loss"]
    assert first["largest_error_afterwards"] == again["largest_error_afterwards"]


# ---- Translator: numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (105, "one hundred and five"),
        (1_000, "one thousand"),
        (1_105, "one thousand one hundred and five"),
        (42_007, "forty two thousand and seven"),
        (300_013, "three hundred thousand and thirteen"),
        (617_940, "six hundred and seventeen thousand nine hundred and forty"),
    ],
)
def test_numbers_in_words(number, words):
    assert translator.spell(number) == words.split()


def test_each_number_has_words_of_its_own(rng):
    numbers = {*range(2000), *rng.integers(0, translator.LIMIT, 20_000).tolist()}
    assert len({tuple(translator.spell(number)) for number in numbers}) == len(numbers)


def test_encoded_numbers_come_back():
    numbers = [0, 105, 999_999, 42_007]
    source, source_lengths, target, target_lengths = translator.encode(numbers)
    assert translator.decode(target) == [str(number) for number in numbers]
    assert target_lengths.tolist() == [2, 4, 7, 6]
    for column, (number, length) in enumerate(zip(numbers, source_lengths, strict=True)):
        words = [translator.WORDS[word] for word in source[:length, column]]
        assert words == translator.spell(number)


def test_no_number_is_held_out_and_trained_on(rng):
    numbers = translator.Numbers(rng, 0.1)
    held_out = set(numbers.held_out.tolist())
    assert len(held_out) == translator.LIMIT // 10
    drawn = numbers.draw(20_000)
    assert len(drawn) == 20_000
    assert not held_out & set(drawn)
    assert 0 <= min(drawn) <= max(drawn) < translator.LIMIT
    sizes = collections.Counter(len(str(number)) for number in drawn)
    assert set(sizes) == {1, 2, 3, 4, 5, 6}
    assert min(sizes.values()) > 2500
    ones = collections.Counter(number for number in drawn if number < 10)
    assert set(ones) == set(range(10)) - held_out
    long = [str(number) for number in drawn if number >= 100_000]
    assert {digit for number in long for digit in number} == set("0123456789")
    assert 0.05 < np.mean([number.count("0") >= 3 for number in long]) < 0.5


def test_translator_counts_mistakes():
    class Wrong:
        def translate(self, source, lengths, max_steps):
            said = translator.encode([7, 80, 16])[2]
            return np.vstack([said, np.ones_like(said)]), None

    assert translator.translations(Wrong(), [7, 8, 16]) == ["7", "80", "16"]
    result = translator.test(Wrong(), [7, 8, 16])
    assert result == {"count": 3, "exact_match": pytest.approx(2 / 3), "wrong": [(8, "80")]}


# ---- Translator: the model ---------------------------------------------------------------------------------


def central_difference(value, layer, index, step):
    """Derivative of `value()` by one parameter."""
    sides = []
    for shift in (step, -step):
        before = layer.state_dict()
        with layer.editing() as flat:
            flat[index] += shift
        sides.append(value())
        layer.load_state_dict(before)
    return (sides[0] - sides[1]) / (2 * step)


def test_gradient_of_attention(rng):
    """Against central differences: for parameters, queries and the memory."""
    S, T, B, H = 5, 3, 2, 4
    attention = Attention(H, np.float64, rng)
    for layer in attention.layers:
        with layer.editing() as flat:
            flat *= 3  # weights that are far from equal
    query, memory, dcontext = (rng.standard_normal((n, B, H)) for n in (T, S, T))
    real = np.arange(S) < np.array([[5], [3]])

    def value():
        return float((attention.forward(query, memory, real).context * dcontext).sum())

    dquery, dmemory = attention.backward(attention.forward(query, memory, real), dcontext)
    assert not dmemory[3:, 1].any()
    for array, gradient in ((query, dquery), (memory, dmemory)):
        for place in np.ndindex(array.shape):
            kept = array[place]
            array[place] = kept + 1e-6
            above = value()
            array[place] = kept - 1e-6
            below = value()
            array[place] = kept
            assert gradient[place] == pytest.approx((above - below) / 2e-6, abs=2e-8, rel=1e-6)
    for layer in attention.layers:
        for index, gradient in enumerate(layer.flat_grads.copy()):
            assert gradient == pytest.approx(
                central_difference(value, layer, index, 1e-6), abs=2e-8, rel=1e-6
            )
    context, weights = attention(query, attention.key(memory), memory, real)
    assert np.array_equal(context, attention.forward(query, memory, real).context)
    np.testing.assert_allclose(weights.sum(axis=2), 1)
    assert not weights[1, :, 3:].any()


def small_batch(rng, num_words, num_symbols):
    """A batch (source, lengths, target, lengths) with rows of different lengths."""
    source_lengths, target_lengths = np.array([6, 1, 4]), np.array([1, 5, 3])
    source = rng.integers(0, num_words, (6, 3))
    target = rng.integers(1, num_symbols, (5, 3))
    for row, length in enumerate(target_lengths):
        target[length - 1 :, row] = 0
    return source, source_lengths, target, target_lengths


def test_gradient_of_the_whole_model(rng):
    """Eight layers each way, attention, shortcuts and embeddings: against central differences in float64."""
    model = Translator(7, 5, 4, depth=8, dtype=np.float64, rng=rng)
    for layer in model.layers:
        with layer.editing() as flat:
            flat *= 1.5  # gradients that reach the bottom
    batch = small_batch(rng, 7, 5)
    loss = model.learn(*batch)
    assert loss == pytest.approx(np.log(5), rel=0.5)
    gradients = [layer.flat_grads.copy() for layer in model.layers]
    assert len(gradients) == 22
    for layer, gradient in zip(model.layers, gradients, strict=True):
        largest = np.argsort(-np.abs(gradient))[:3]
        assert abs(gradient[largest[0]]) > 1e-6
        for index in {*largest.tolist(), *rng.integers(0, gradient.size, 5).tolist()}:
            expected = central_difference(lambda: model.learn(*batch), layer, index, 1e-5)
            assert gradient[index] == pytest.approx(expected, abs=1e-9, rel=1e-5), (layer, index)


def test_padding_does_not_count(rng):
    model = Translator(7, 5, 6, depth=3, rng=rng)
    source, source_lengths, target, target_lengths = small_batch(rng, 7, 5)
    loss = model.learn(source, source_lengths, target, target_lengths)
    gradients = [layer.flat_grads.copy() for layer in model.layers]
    said, weights = model.translate(source, source_lengths, 4)
    padding = np.arange(len(source))[:, np.newaxis] >= source_lengths
    source[padding] = (source[padding] + 1) % 7
    for layer in model.layers:
        layer.zero_grad()
    assert model.learn(source, source_lengths, target, target_lengths) == loss
    for layer, gradient in zip(model.layers, gradients, strict=True):
        assert np.array_equal(layer.flat_grads, gradient)
    again, weights_again = model.translate(source, source_lengths, 4)
    assert np.array_equal(said, again)
    assert np.array_equal(weights, weights_again)
    assert not weights.transpose(2, 0, 1)[padding].any()


def test_translator_says_what_it_has_learned():
    """A few numbers by heart: what is learned with the right prefix given is said without it."""
    model = Translator(len(translator.WORDS), len(translator.SYMBOLS), 32, depth=4, rng=0)
    numbers = [3, 40, 105, 9_017, 12_000, 870_654, 870_645, 100_001]
    optimizer = optim.Adam(model.layers, 5e-3)
    assert translator.test(model, numbers)["exact_match"] < 0.5
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.learn(*translator.encode(numbers))
        optim.clip_grad_norm(model.layers, 1.0)
        optimizer.step()
    assert loss < 0.1
    assert translator.translations(model, numbers) == [str(number) for number in numbers]
    assert translator.test(model, numbers) == {"count": 8, "exact_match": 1, "wrong": []}


def test_learning_rate_rises_and_falls():
    rates = [translator.learning_rate(update, 400, 0.5) for update in range(400)]
    assert rates[0] == 0.5 / 20
    assert max(rates) == rates[19] == rates[20] == 0.5
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[-1] < 1e-4


# ---- As they are run ---------------------------------------------------------------------------------------


def test_quick_reber(tmp_path, capsys):
    reber.main(["--quick", "--seed", "5", "--out", str(tmp_path)])
    (result,) = assert_results(tmp_path, "reber")["results"]
    assert result["seed"] == 5
    assert result["checks"][-1][0] == 1024
    assert "1000 more strings" in capsys.readouterr().out


def test_quick_adding(tmp_path, capsys):
    adding.main(["--quick", "--out", str(tmp_path)])
    (result,) = assert_results(tmp_path, "adding")["results"]
    assert result["solved_at"] or len(result["loss"]) == 800
    assert np.mean(result["loss"][-50:]) < 0.25 * np.mean(result["loss"][:50])
    assert "largest error" in capsys.readouterr().out


def test_quick_translator(tmp_path, capsys):
    translator.main(["--quick", "--out", str(tmp_path)])
    result = assert_results(tmp_path, "translator")
    assert result["depth"] == 8
    assert np.mean(result["loss"][-10:]) < 0.8 * result["loss"][0]
    assert [update for update, _ in result["checks"]] == [20, 40, 60]
    assert all(part["count"] > 400 for part in result["tests"].values())
    assert "held-out numbers" in capsys.readouterr().out
