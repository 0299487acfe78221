# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent policies of sb3-contrib: one call of a layer, with resets, instead of one for each step."""

from __future__ import annotations

import functools
from typing import Any

import torch

from .accelerating import Report
from .accelerating import accelerate as accelerate_modules

__all__ = ["accelerate"]


def accelerate(model: Any) -> Report:
    """Let the policy of ``RecurrentPPO`` run in fastlstm's kernels, sequences with episode starts at once.

    Parameters
    ----------
    model : RecurrentPPO or RecurrentActorCriticPolicy
        Changed in place.  A model that is saved and loaded has to be accelerated again.

    Returns
    -------
    Report
        As `fastlstm.torch.accelerate` gives it, of the policy.

    Raises
    ------
    TypeError
        `model` has no policy that runs sequences as sb3-contrib does.
    """
    policy = getattr(model, "policy", model)
    if not isinstance(policy, torch.nn.Module) or not callable(getattr(policy, "_process_sequence", None)):
        raise TypeError(
            f"model: expected RecurrentPPO of sb3-contrib or its policy, got {type(model).__name__}"
        )
    report = accelerate_modules(policy)
    policy._process_sequence = functools.partial(_run, type(policy))  # type: ignore[assignment]
    return report


def _run(policy: Any, features: Any, lstm_states: Any, episode_starts: Any, lstm: Any) -> Any:
    if not hasattr(lstm, "_is_frozen"):  # left as it is
        return policy._process_sequence(features, lstm_states, episode_starts, lstm)
    return process_sequence(features, lstm_states, episode_starts, lstm)


def process_sequence(
    features: torch.Tensor, lstm_states: tuple[torch.Tensor, ...], episode_starts: torch.Tensor, lstm: Any
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Run an LSTM over rows (n_seq * T, I), whose state is zero where an episode starts.

    Parameters
    ----------
    features : Tensor, (n_seq * T, I)
        One sequence after the other.
    lstm_states : tuple of Tensor, (L, n_seq, H)
        First states.
    episode_starts : Tensor, (n_seq * T,)
        1 where an episode starts.
    lstm : Module
        An LSTM that takes ``reset``.

    Returns
    -------
    tuple
        Outputs (n_seq * T, H), and the final states.
    """
    n_seq = lstm_states[0].shape[1]
    x = features.reshape((n_seq, -1, lstm.input_size)).swapaxes(0, 1)
    starts = episode_starts.reshape((n_seq, -1)).swapaxes(0, 1)
    # What comes before the first step is the given state, which a reset does not touch.
    kept = (1.0 - starts[0]).view(1, n_seq, 1)
    states = tuple(kept * state for state in lstm_states)
    reset = starts != 0
    reset[0] = False
    y, states = lstm(x, states, reset=reset if bool(reset.any()) else None)
    return torch.flatten(y.transpose(0, 1), start_dim=0, end_dim=1), states
