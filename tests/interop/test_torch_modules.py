# SPDX-License-Identifier: BSD-3-Clause
"""Modules of fastlstm.torch: torch's values, gradients and rules, however weights change."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import fastlstm
import fastlstm.torch as fast
from fastlstm.torch import calling, operators, sb3

T, B, I, H = 6, 3, 4, 5
LAYERS = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "RNN": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "projected": ("LSTM", {"proj_size": 3}),
    "no bias": ("LSTM", {"bias": False}),
    "deep": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "deep GRU": ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
every_kind = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
every_cell = pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])


# What torch warns of in its own code.
of_torchs_own = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(name, dtype=torch.float64):
    """Torch's module, and ours with its parameters."""
    kind, options = LAYERS[name]
    own = getattr(torch.nn, kind)(I, H, dtype=dtype, **options)
    ours = getattr(fast, kind)(I, H, dtype=dtype, **options)
    assert ours.load_state_dict(own.state_dict()) == ([], [])
    assert list(ours.state_dict()) == list(own.state_dict())
    return own, ours


def members(state):
    return state if isinstance(state, tuple) else (state,)


def close(got, expected, tolerance=1e-12):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def assert_like(ours, own, *arguments, tolerance=1e-12):
    """Values, and gradients of all arguments and parameters."""
    results = []
    for module in (own, ours):
        given = [
            tuple(each.detach().clone().requires_grad_() for each in argument)
            if isinstance(argument, tuple) and not isinstance(argument, PackedSequence)
            else argument.detach().clone().requires_grad_()
            if isinstance(argument, torch.Tensor)
            else argument
            for argument in arguments
        ]
        module.zero_grad()
        y, state = module(*given)
        data = y.data if isinstance(y, PackedSequence) else y
        weight = torch.linspace(-1, 1, data.numel(), dtype=data.dtype).reshape(data.shape)
        loss = (data * weight).sum() + sum(((n + 2) * each).sum() for n, each in enumerate(members(state)))
        loss.backward()
        leaves = [
            each for argument in given for each in (argument if type(argument) is tuple else (argument,))
        ]
        grads = [each.grad for each in leaves if isinstance(each, torch.Tensor)]
        results.append([data, *members(state), *grads, *(p.grad for p in module.parameters())])
    assert len(results[0]) == len(results[1])
    for a, b in zip(*results, strict=True):
        close(b, a, tolerance)


def first_state(own, batch=B):
    rows = own.num_layers * (1 + own.bidirectional)
    h = torch.randn(rows, batch, own.proj_size or H, dtype=torch.float64)
    return (h, torch.randn(rows, batch, H, dtype=torch.float64)) if isinstance(own, torch.nn.LSTM) else h


# ---- Torch's values and gradients --------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("has_state", [False, True])
def test_values_and_gradients(name, has_state):
    own, ours = pair(name)
    x = torch.randn((B, T, I) if own.batch_first else (T, B, I), dtype=torch.float64)
    assert_like(ours, own, x, *((first_state(own),) if has_state else ()))
    assert_like(ours, own, torch.randn(T, I, dtype=torch.float64))
    assert_like(ours, own, x.transpose(0, 1).contiguous().transpose(0, 1))
    with torch.no_grad():
        close(ours(x)[0], own(x)[0])


@every_layer
@pytest.mark.parametrize("is_sorted", [False, True])
def test_packed_sequences(name, is_sorted):
    own, ours = pair(name)
    lengths = (5, 3, 1) if is_sorted else (3, 5, 1)
    rows = [torch.randn(n, I, dtype=torch.float64) for n in lengths]
    assert_like(ours, own, pack_sequence(rows, enforce_sorted=is_sorted))
    assert_like(ours, own, pack_sequence(rows, enforce_sorted=is_sorted), first_state(own))
    rows = torch.randn(T, B, I, dtype=torch.float64)
    x = rows.requires_grad_()
    ours.zero_grad()
    y, _ = ours(pack_padded_sequence(x, [T, 2, 1]))
    y.data.sum().backward()
    assert x.grad[:2].any()
    assert not x.grad[2:, 1].any()


@every_cell
def test_cells(kind):
    own = getattr(torch.nn, kind)(I, H, dtype=torch.float64)
    ours = getattr(fast, kind)(I, H, dtype=torch.float64)
    ours.load_state_dict(own.state_dict())
    for shape in ((B, I), (I,)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        h = torch.randn((*shape[:-1], H), dtype=torch.float64, requires_grad=True)
        hx = (h, 2 * h) if kind == "LSTMCell" else h
        for state in (None, hx):
            a, b = own(x, state), ours(x, state)
            for left, right in zip(members(a), members(b), strict=True):
                close(right, left)
                inputs = [x, *own.parameters()]
                expected = torch.autograd.grad(left.sum(), inputs, retain_graph=True)
                got = torch.autograd.grad(right.sum(), [x, *ours.parameters()], retain_graph=True)
                for one, other in zip(got, expected, strict=True):
                    close(one, other)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"peephole": True}),
        ("LSTM", {"coupled": "f_from_i", "cell_clip": 0.5}),
        ("LSTM", {"layer_norm": "gate"}),
        ("GRU", {"reset_after": False}),
        ("IndRNN", {}),
        ("MGU", {}),
        ("MinGRU", {"bidirectional": True}),
        ("MinLSTM", {}),
    ],
)
def test_the_family_is_that_of_the_layers(kind, options):
    module = getattr(fast, kind)(I, H, 2, dtype=torch.float64, **options)
    layer = getattr(fastlstm, kind)(I, H, 2, dtype="float64", **options)
    layer.load_state_dict(module.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    y, _ = module(x)
    tape = layer.forward(x.detach().numpy())
    assert y.detach().numpy().tobytes() == tape.y.tobytes()
    dy = torch.randn_like(y)
    y.backward(dy)
    dx, _ = tape.backward(dy.numpy())
    assert x.grad.numpy().tobytes() == dx.tobytes()
    for name, parameter in module.named_parameters():
        assert parameter.grad.numpy().tobytes() == layer.grads[name].tobytes(), name
    assert str(options.get("peephole", "")) in repr(module)


@every_kind
def test_resets_and_lengths(kind):
    module = getattr(fast, kind)(I, H, dtype=torch.float64, batch_first=True)
    layer = getattr(fastlstm, kind)(I, H, dtype="float64", batch_first=True)
    layer.load_state_dict(module.state_dict())
    x = torch.randn(B, T, I, dtype=torch.float64, requires_grad=True)
    starts = torch.zeros(B, T)  # episode starts in floating point
    starts[1, 2] = starts[0, 4] = 1
    lengths = torch.tensor([T, 4, 2])
    keywords = {"lengths": [T, 4, 2], "reset": starts.numpy() != 0}
    with torch.no_grad():
        for given in ("lengths", "reset"):
            got = module(x, **{given: {"lengths": lengths, "reset": starts}[given]})[0]
            assert (
                got.contiguous().numpy().tobytes()
                == layer(x.detach().numpy(), **{given: keywords[given]})[0].tobytes()
            )
    y, _ = module(x, lengths=lengths, reset=starts)
    tape = layer.forward(x.detach().numpy(), **keywords)
    y.backward(torch.ones_like(y))
    dx, _ = tape.backward(np.ones(tape.y.shape))
    assert x.grad.contiguous().numpy().tobytes() == np.ascontiguousarray(dx).tobytes()
    assert module.weight_hh_l0.grad.numpy().tobytes() == layer.grads["weight_hh_l0"].tobytes()


def test_dropout_is_drawn_from_torch():
    module = fast.LSTM(I, H, 2, dropout=0.5)
    x = torch.randn(T, B, I)
    torch.manual_seed(3)
    first, second = module(x)[0], module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(module(x)[0], first)
    assert not torch.equal(first, second)
    first.sum().backward()
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


# ---- Autograd ----------------------------------------------------------------------------------------------


@every_kind
def test_gradcheck_of_all_arguments(kind):
    module = getattr(fast, kind)(3, 2, 2, bidirectional=True, dtype=torch.float64)
    names = [name for name, _ in module.named_parameters()]
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(x, h, *weights):
        state = (h, h * 2) if kind == "LSTM" else h
        y, final = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x, state))
        return y, *members(final)

    assert torch.autograd.gradcheck(function, (x, h, *module.parameters()))


def test_graphs_that_are_kept_serve_again():
    module = fast.LSTM(I, H)
    x = torch.randn(T, B, I, requires_grad=True)
    y = module(x)[0].sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x)


@of_torchs_own
def test_second_derivatives_and_forward_mode_are_refused():
    module = fast.LSTM(I, H)
    x = torch.randn(T, B, I, requires_grad=True)
    (dx,) = torch.autograd.grad(module(x)[0].sum() + (x**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        dx.sum().backward()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"jvp|forward"):  # and no zero in silence
        torch.func.jvp(lambda x: module(x)[0], (x.detach(),), (torch.ones(T, B, I),))


def test_threads_go_back_at_once():
    module = fast.LSTM(I, H)
    x = torch.randn(T, B, I)
    y = module(x)[0]
    expected = torch.autograd.grad(y.sum(), list(module.parameters()), retain_graph=True)
    wrong, barrier = [], threading.Barrier(3)

    def go_back():
        barrier.wait()
        for _ in range(10):
            got = torch.autograd.grad(y.sum(), list(module.parameters()), retain_graph=True)
            wrong.extend(1 for a, b in zip(got, expected, strict=True) if not torch.equal(a, b))

    threads = [threading.Thread(target=go_back) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- Weights are never those of before ---------------------------------------------------------------------


def optimisers(parameters):
    yield torch.optim.Adam(parameters, 0.05, foreach=False)
    yield torch.optim.Adam(parameters, 0.05, foreach=True)
    yield torch.optim.Adam(parameters, 0.05, fused=True)
    yield torch.optim.SGD(parameters, 0.5, momentum=0.9)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("way", ["module", "accelerated"])
def test_training_is_that_of_torch(number, way):
    own, ours = pair("deep")
    if way == "accelerated":
        ours = copy.deepcopy(own)
        assert fast.accelerate(ours).changed == {"": "LSTM"}
    x = torch.randn(T, B, I, dtype=torch.float64)
    for module in (own, ours):
        optimiser = list(optimisers(list(module.parameters())))[number]
        for _ in range(4):
            optimiser.zero_grad()
            (module(x)[0] ** 2).sum().backward()
            optimiser.step()
            with torch.no_grad():
                module(x)
    for a, b in zip(own.parameters(), ours.parameters(), strict=True):
        close(b, a, 1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.weight_hh_l0.data.mul_(2),
        lambda m: m.weight_hh_l0.data.view(-1)[:1].add_(1),
        lambda m: m.bias_hh_l0.detach().numpy().__setitem__(slice(None), 3),
        lambda m: m.load_state_dict({name: 2 * value for name, value in m.state_dict().items()}),
        lambda m: torch.nn.utils.vector_to_parameters(
            torch.ones(sum(p.numel() for p in m.parameters())), m.parameters()
        ),
        lambda m: setattr(m, "weight_ih_l0", torch.nn.Parameter(torch.ones(4 * H, I))),
        lambda m: parametrizations.weight_norm(
            m, "weight_hh_l0"
        ).parametrizations.weight_hh_l0.original0.data.mul_(2),
        lambda m: m.weight_ih_l0.set_(torch.ones(I, 4 * H).t() * torch.arange(I)),
    ],
)
def test_any_change_of_weights_is_seen(change):
    module, fresh = fast.LSTM(I, H), fast.LSTM(I, H)
    x = torch.randn(T, B, I)
    with torch.no_grad():
        before = module(x)[0]
        change(module)
        after = module(x)[0]
        names = [name for name, _ in fresh.named_parameters()]
        fresh.load_state_dict({name: getattr(module, name).contiguous() for name in names})
        assert not torch.equal(after, before)
        assert torch.equal(after, fresh(x)[0])
    after = module(x)[0]
    after.sum().backward()
    fresh(x)[0].sum().backward()
    assert torch.equal(after, fresh(x)[0])


def test_unchanged_weights_are_packed_once(monkeypatch):
    module = fast.LSTM(I, H)
    x = torch.randn(T, B, I)
    count = []
    original = operators._core.gathered_memory

    class Counted:
        def __getattr__(self, name):
            return getattr(fastlstm._core, name)

        def gathered_memory(self, *arguments):
            count.append(1)
            return original(*arguments)

    monkeypatch.setattr(operators, "_core", Counted())
    for _ in range(20):
        module(x)[0].sum().backward()
        with torch.no_grad():
            module(x)
    assert len(count) == 1
    with torch.no_grad():
        module.weight_hh_l0.add_(1)
        module(x)
    assert len(count) == 2


@pytest.mark.parametrize("function", [fast.accelerate, fast.restore, fast.freeze, fast.unfreeze])
def test_what_is_no_module_is_a_type_error(function):
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got list"):
        function([torch.nn.LSTM(2, 3)])


def test_frozen_weights_are_not_looked_at():
    module = fast.LSTM(I, H)
    x = torch.randn(T, B, I)
    with torch.no_grad():
        module(x)
        module.weight_hh_l0.add_(1)
        assert fast.freeze(module) is module
        before = module(x)[0]  # with the weights that were there when it was frozen
        twin = fast.LSTM(I, H)
        twin.load_state_dict(module.state_dict())
        assert torch.equal(before, twin(x)[0])
        module.weight_hh_l0.add_(1)
        assert torch.equal(module(x)[0], before)
        fast.unfreeze(module)
        assert not torch.equal(module(x)[0], before)


def test_nothing_is_kept_of_modules_that_are_gone():
    before = len(operators._packed)
    for _ in range(5):
        module = fast.LSTM(I, H)
        module(torch.randn(T, B, I))[0].sum().backward()
        del module
    assert len(operators._packed) <= before + 1


# ---- Tracing -----------------------------------------------------------------------------------------------


@of_torchs_own
@every_kind
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_break(kind, backend):
    module = getattr(fast, kind)(I, H, 2, bidirectional=True)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    x = torch.randn(T, B, I, requires_grad=True)
    for _ in range(2):
        module.zero_grad()
        y = module(x)[0]
        y.sum().backward()
        expected = [p.grad.clone() for p in module.parameters()]
        module.zero_grad()
        got = compiled(x)[0]
        got.sum().backward()
        assert torch.equal(got, y)
        for a, p in zip(expected, module.parameters(), strict=True):
            assert torch.equal(a, p.grad)
        with torch.no_grad():
            module.weight_hh_l0.mul_(2)  # also after it is compiled


@every_kind
def test_exported_with_any_size(kind):
    module = getattr(fast, kind)(I, H, 2)
    sizes = ({0: torch.export.Dim("T"), 1: torch.export.Dim("B")},)
    program = torch.export.export(module, (torch.randn(T, B, I),), dynamic_shapes=sizes)
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    x = torch.randn(9, 2, I)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], module(x)[0])


@every_kind
def test_operators_keep_torchs_rules(kind):
    module = getattr(fast, kind)(I, H)
    weights = [p.detach() for p in module.parameters()]
    x = torch.randn(T, B, I)
    arguments = (x, None, None, None, None, weights, module._kind.config, False, False, None, False)
    torch.library.opcheck(operators.forward_op, arguments)
    recorded = (*arguments[:7], True, *arguments[8:])
    # What stands behind the arrays of a reserve is anything, so that two of them cannot be compared.
    rules = ("test_schema", "test_autograd_registration")
    torch.library.opcheck(operators.forward_op, recorded, test_utils=rules)
    y, _, _, reserve = operators.forward_op(*recorded)
    back = (
        y,
        None,
        None,
        x,
        None,
        None,
        None,
        None,
        y,
        reserve,
        weights,
        module._kind.config,
        False,
        None,
        False,
    )
    torch.library.opcheck(operators.backward_op, back)


# ---- What the kernels do not take --------------------------------------------------------------------------


def test_torchs_own_code_runs_with_a_warning():
    own, ours = pair("deep", torch.float32)
    x = torch.randn(T, B, I)
    calling._told.clear()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.warns(UserWarning, match=r"^LSTM: torch's own layer runs"),
    ):
        got = ours(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(got, own(x)[0])
    own.bfloat16(), ours.bfloat16()
    with pytest.warns(UserWarning, match="bfloat16"):
        got = ours(x.bfloat16())[0]
    assert torch.equal(got, own(x.bfloat16())[0])
    with pytest.warns(UserWarning, match="meta"):
        got = fast.LSTM(I, H, device="meta")(torch.empty(T, B, I, device="meta"))[0]
    assert got.shape == (T, B, H)
    with pytest.raises(TypeError, match="peephole"):
        fast.LSTM(I, H, peephole=True, dtype=torch.bfloat16)(x.bfloat16())
    with pytest.raises(TypeError, match="lengths"), warnings.catch_warnings():
        ours(x.bfloat16(), lengths=torch.tensor([1, 2, 3]))


def test_wrong_arguments_are_named():
    module = fast.LSTM(I, H)
    x = torch.randn(T, B, I)
    with pytest.raises(ValueError, match="x: expected"):
        module(torch.randn(T, B, I + 1))
    with pytest.raises(ValueError, match=r"^input: expected 2 or 3"):
        module(torch.randn(I))
    with pytest.raises(TypeError, match=r"^hx: expected a pair"):
        module(x, torch.zeros(1, B, H))
    with pytest.raises(ValueError, match=r"^hx\[1\]: expected shape"):
        module(x, (torch.zeros(1, B, H), torch.zeros(1, B, I)))
    with pytest.raises(ValueError, match=r"^reset: expected shape"):
        module(x, reset=torch.zeros(B, T))
    with pytest.raises(ValueError, match=r"^lengths: expected shape"):
        module(x, lengths=torch.tensor([1]))
    with pytest.raises(ValueError, match="lengths"):
        module(x, lengths=torch.tensor([1, 2, T + 1]))
    with pytest.raises(TypeError, match=r"^rng: expected an option of a module"):
        fast.LSTM(I, H, rng=0)
    with pytest.raises(ValueError, match="layers of one size"):
        fast.LSTM(I, (H, H + 1))


# ---- Models that are there ---------------------------------------------------------------------------------


class Own(torch.nn.LSTM):
    """A subclass with a method more."""

    def doubled(self):
        return 2 * self.hidden_size


class Other(torch.nn.LSTM):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(x)[0]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.ModuleDict({"lstm": Own(I, H, batch_first=True), "other": Other(H, H)})
        self.cell = torch.nn.GRUCell(H, H)
        self.head = torch.nn.Linear(H, 2)

    def forward(self, x):
        y, _ = self.inner["lstm"](x)
        return self.head(self.cell(self.inner["other"](y)[:, -1]))


def test_models_are_accelerated_in_place_and_restored():
    model = Model()
    x = torch.randn(B, T, I)
    expected = model(x)
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    calls = []
    hook = model.inner["lstm"].register_forward_hook(lambda *given: calls.append(1))
    report = fast.accelerate(model)
    assert report.model is model
    assert report.changed == {"inner.lstm": "Own", "cell": "GRUCell"}
    assert list(report.left) == ["inner.other"]
    assert "forward of its own" in report.left["inner.other"]
    assert str(report).startswith("2 changed, 1 left")
    close(model(x), expected, 1e-5)
    assert calls == [1]
    hook.remove()
    assert isinstance(model.inner["lstm"], Own)
    assert model.inner["lstm"].doubled() == 2 * H
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.state_dict().keys() == state.keys()
    assert repr(model) == repr(Model())
    assert not fast.accelerate(model).changed  # a second time
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert fast.restore(twin).changed == {"inner.lstm": "Own", "cell": "GRUCell"}
    fast.restore(model)
    assert type(model.inner["lstm"]) is Own
    assert type(model.cell) is torch.nn.GRUCell
    assert torch.equal(model(x), expected)
    assert "_is_frozen" not in model.cell.__dict__
    with pytest.raises(TypeError, match=r"^model: expected a torch\.nn\.Module"):
        fast.accelerate(len)


@every_layer
def test_accelerated_layers_are_torchs(name):
    own, _ = pair(name)
    ours = copy.deepcopy(own)
    fast.accelerate(ours)
    x = torch.randn((B, T, I) if own.batch_first else (T, B, I), dtype=torch.float64)
    assert_like(ours, own, x, first_state(own))
    assert_like(ours, own, pack_sequence([torch.randn(n, I, dtype=torch.float64) for n in (4, 5)], False))
    ours.flatten_parameters()
    before = ours(x)[0]
    ours.weight_hh_l0.data.mul_(2)
    assert not torch.equal(ours(x)[0], before)


@of_torchs_own
def test_scripted_models_are_left():
    model = torch.nn.Sequential(torch.nn.LSTM(I, H))
    scripted = torch.jit.script(model)
    report = fast.accelerate(scripted)
    assert not report.changed
    assert "TorchScript" in report.left["0"]


# ---- Recurrent policies of sb3-contrib ---------------------------------------------------------------------


class Policy(torch.nn.Module):
    """Runs sequences as sb3-contrib does: step by step where episodes start."""

    def __init__(self):
        super().__init__()
        self.lstm_actor = torch.nn.LSTM(I, H)

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        n_seq = lstm_states[0].shape[1]
        x = features.reshape((n_seq, -1, lstm.input_size)).swapaxes(0, 1)
        outputs = []
        for row, start in zip(x, episode_starts.reshape((n_seq, -1)).swapaxes(0, 1), strict=True):
            kept = (1.0 - start).view(1, n_seq, 1)
            y, lstm_states = lstm(row.unsqueeze(0), tuple(kept * state for state in lstm_states))
            outputs.append(y)
        return torch.flatten(torch.cat(outputs).transpose(0, 1), 0, 1), lstm_states


@pytest.mark.parametrize("starts", [(), (0,), (0, 3, 4, T + 1, 2 * T - 1)])
def test_policies_run_sequences_at_once(starts):
    own = Policy()
    ours = copy.deepcopy(own)
    assert sb3.accelerate(ours).changed == {"lstm_actor": "LSTM"}
    ours = pickle.loads(pickle.dumps(ours))
    episode_starts = torch.zeros(2 * T)
    episode_starts[list(starts)] = 1.0
    x = torch.randn(2 * T, I)
    states = (torch.randn(1, 2, H), torch.randn(1, 2, H))
    results = []
    for policy in (own, ours):
        given = [state.clone().requires_grad_() for state in states]
        y, final = policy._process_sequence(x, tuple(given), episode_starts, policy.lstm_actor)
        ((y**2).sum() + final[0].sum() + final[1].sum()).backward()
        results.append([y, *final, *(p.grad for p in (*given, *policy.parameters()))])
    for a, b in zip(*results, strict=True):
        close(b, a, 1e-5)
    with pytest.raises(TypeError, match=r"^model: expected RecurrentPPO"):
        sb3.accelerate(torch.nn.Linear(1, 1))
