# SPDX-License-Identifier: BSD-3-Clause
"""Import, environment, and the description of what the library runs on."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

import fastlstm
from tests.problems import inside
from tests.problems.children import HANG, ISAS, child_environment


def python(*arguments, **variables):
    environment = {
        name: value
        for name, value in child_environment().items()
        if name not in ("FASTLSTM_NUM_THREADS", "OMP_NUM_THREADS")
    }
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=HANG)


def test_show_runtime_tells_what_a_report_should_contain(capsys):
    fastlstm.show_runtime()
    text = capsys.readouterr().out
    for needed in (fastlstm.__version__, np.__version__, inside.isa_active(), inside.compiler, *ISAS):
        assert needed in text
    assert re.search(rf"threads.*\b{fastlstm.get_num_threads()}\b", text)
    facts = fastlstm.show_runtime(as_dict=True)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["instruction sets"]["active"] == inside.isa_active()
    assert facts["instruction sets"]["available"] == ISAS
    assert set(ISAS) <= set(facts["instruction sets"]["built"])


def test_show_runtime_tells_where_the_number_of_threads_came_from():
    fastlstm.set_num_threads(3)
    assert fastlstm.show_runtime(as_dict=True)["threads"] == {"number": 3, "from": "set_num_threads"}
    with fastlstm.threads(2):
        assert fastlstm.show_runtime(as_dict=True)["threads"] == {"number": 2, "from": "threads"}
        assert fastlstm.get_num_threads() == 2


SHOW_PLANS = """
import json, sys
import numpy as np, fastlstm
layer = fastlstm.LSTM(256, 256, rng=0, num_threads=2)
x = np.zeros((2, 1, 256), np.float32)
for _ in range(30):
    layer(x)
stream = layer.stream(num_threads=2)
for _ in range(30):
    stream.step(x[0])
if sys.argv[1:]:
    fastlstm.show_runtime()
else:
    print(json.dumps(fastlstm.show_runtime(as_dict=True)["plans"]))
"""


def test_plans_are_measured_shown_and_can_be_fixed():
    measured = json.loads(python("-c", SHOW_PLANS).stdout)
    assert measured["chosen by"] == "trial"
    (stream,) = [call for call in measured["calls"] if call["pass"] == "stream"]
    assert {
        "hidden_size": 256,
        "rows": 1,
        "steps": 1,
        "max_threads": 2,
        "is_settled": True,
    }.items() <= stream.items()
    assert sorted(plan["threads"] for plan in stream["plans"]) == [1, 2]
    assert all(plan["nanoseconds"] > 0 for plan in stream["plans"])
    assert re.search(
        r"stream, 1 x 1, 256 -> 256, float32, B 1, T >= 1: ", python("-c", SHOW_PLANS, "show").stdout
    )
    estimated = json.loads(python("-c", SHOW_PLANS, FASTLSTM_PLANS="estimated").stdout)
    assert estimated == {"chosen by": "estimate", "calls": []}
    refused = python("-c", "import fastlstm", FASTLSTM_PLANS="fast")
    assert "ImportError: FASTLSTM_PLANS: expected measured or estimated, got 'fast'" in refused.stderr


def test_python_m_fastlstm_prints_it():
    finished = python("-m", "fastlstm")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    for needed in (fastlstm.__version__, np.__version__, inside.isa_active(), sys.version.split()[0]):
        assert needed in finished.stdout


GET = "import fastlstm; print(fastlstm.get_num_threads())"


def test_the_environment_sets_the_number_of_threads():
    assert python("-c", GET, FASTLSTM_NUM_THREADS="3").stdout == "3\n"
    assert python("-c", GET, FASTLSTM_NUM_THREADS="3", OMP_NUM_THREADS="5").stdout == "3\n"
    finished = python("-m", "fastlstm", FASTLSTM_NUM_THREADS="3")
    assert "3" in finished.stdout
    assert "FASTLSTM_NUM_THREADS" in finished.stdout


@pytest.mark.parametrize("text", ["1", " 1", "1 ", "1,4", " 1 , 2,3"])
def test_forms_of_the_number_of_threads(text):
    assert python("-c", GET, OMP_NUM_THREADS=text).stdout == "1\n"
    three = text.replace("1", "3", 1)
    assert python("-c", GET, FASTLSTM_NUM_THREADS=three).stdout == "3\n"


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5", ",2", "9" * 30, "\u0663"])
def test_a_wish_that_is_no_number_does_not_count(text):
    assert python("-c", GET, OMP_NUM_THREADS=text).stdout == f"{inside.cpu_count()}\n"
    finished = python("-c", GET, FASTLSTM_NUM_THREADS=text)
    if text:
        assert f"FASTLSTM_NUM_THREADS: expected an integer of at least 1, got {text!r}" in finished.stderr
    else:
        assert finished.stdout == f"{inside.cpu_count()}\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_more_threads_than_cpus_only_where_the_caller_insists():
    """A wish of the environment is capped at the CPUs of the process, also if they become others later."""
    code = """
import os, fastlstm
most = sorted(os.sched_getaffinity(0))
def seen(cpus):
    os.sched_setaffinity(0, cpus)
    fastlstm.set_num_threads(None)
    return fastlstm.get_num_threads()
numbers = [fastlstm.get_num_threads(), seen(most[:1]), seen(most)]
fastlstm.set_num_threads(50)
numbers.append(fastlstm.get_num_threads())
with fastlstm.threads(60):
    numbers.append(fastlstm.get_num_threads())
numbers.append(fastlstm.show_runtime(as_dict=True)["threads"]["from"])
fastlstm.set_num_threads(None)
print(numbers, fastlstm.get_num_threads())
"""
    cpus = inside.cpu_count()
    expected = f"[{cpus}, 1, {cpus}, 50, 60, 'set_num_threads'] {cpus}\n"
    assert python("-c", code, OMP_NUM_THREADS="64").stdout == expected
    insisting = expected.replace(f"[{cpus}, 1, {cpus},", "[40, 40, 40,").replace(f"] {cpus}", "] 40")
    assert python("-c", code, FASTLSTM_NUM_THREADS="40", OMP_NUM_THREADS="1").stdout == insisting


def test_without_the_environment_it_is_the_number_of_cpus_of_this_process():
    assert python("-c", GET).stdout == f"{inside.cpu_count()}\n"
    assert 1 <= inside.cpu_count() <= len(os.sched_getaffinity(0))
    one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert python("-c", one + GET).stdout == "1\n"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2 3", "99999999999999999999999"])
def test_a_number_of_threads_in_the_environment_that_is_none_is_an_error(value):
    finished = python("-c", GET, FASTLSTM_NUM_THREADS=value)
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError", "ValueError"))
    assert re.search(rf"FASTLSTM_NUM_THREADS: expected .*, got .*{re.escape(value)}", last)


def test_import_needs_numpy_alone_starts_no_thread_and_changes_no_signal():
    code = """
import os, signal, sys
import numpy
before, threads = set(sys.modules), len(os.listdir("/proc/self/task"))
handlers = [signal.getsignal(s) for s in signal.valid_signals()]
import fastlstm
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
# Extension modules of Cython keep what they share under a name of their own.
new = {name for name in new if not name.startswith(("_cython", "cython_runtime"))}
assert new <= {"fastlstm", "numpy"}, new
assert len(os.listdir("/proc/self/task")) == threads
assert [signal.getsignal(s) for s in signal.valid_signals()] == handlers
assert numpy.float32(1e-40) * numpy.float32(0.5) != 0
"""
    finished = python("-c", code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == finished.stderr == ""


def test_the_names_of_the_package():
    for name in fastlstm.__all__:
        assert hasattr(fastlstm, name)
    expected = {
        "LSTM",
        "LSTMCell",
        "set_num_threads",
        "get_num_threads",
        "threads",
        "show_runtime",
        "kernels",
    }
    assert expected | {"reference"} <= set(fastlstm.__all__)
    assert metadata.version("fastlstm") == fastlstm.__version__
    requirements = [r for r in metadata.requires("fastlstm") or [] if "extra" not in r]
    assert [re.match(r"\w+", requirement)[0] for requirement in requirements] == ["numpy"]


def test_the_examples_in_the_documentation():
    with_examples = set()
    for found in pkgutil.walk_packages(fastlstm.__path__, "fastlstm."):
        if found.name != "fastlstm.__main__":
            outcome = doctest.testmod(importlib.import_module(found.name))
            assert outcome.failed == 0, found.name
            with_examples |= {found.name.rpartition(".")[2]} if outcome.attempted else set()
    assert {
        "lstm",
        "gru",
        "rnn",
        "slstm",
        "minimal",
        "dense",
        "embedding",
        "streams",
        "onnx",
    } <= with_examples


def test_everything_public_is_documented():
    public = [getattr(fastlstm, name) for name in fastlstm.__all__]
    public += [
        getattr(module, name) for module in (fastlstm.kernels, fastlstm.reference) for name in module.__all__
    ]
    for item in public:
        assert item.__doc__, item
        for name, member in vars(item).items() if isinstance(item, type) else ():
            if not name.startswith("_") and callable(member):
                assert member.__doc__, (item, name)


def test_probes_give_figures_above_zero():
    for dtype in (np.float32, np.float64):
        assert inside.probe_fma(dtype, 0.001) > 0
    assert inside.probe_stream(1 << 16, 0.001) > 0
