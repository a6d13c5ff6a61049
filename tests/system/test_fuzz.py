"""Hostile and mistaken messages to every method, on both pairs of stores. None may harm the service or other callers.

The short form makes 50 calls per method. `make fuzz` makes 2,000. Both are reproducible: the seed is WENTU_TEST_SEED, 0
if it is not set.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import log_lines, memory
from tests.fuzz.arena import Arena, arena
from tests.fuzz.attempts import FLOODS, Attempt, Target, attempts
from tests.fuzz.contract import Method, methods
from tests.fuzz.guard import contents
from tests.fuzz.templates import TEMPLATES
from tests.fuzz.world import GUARDED
from tests.support.system import System

EXAMPLES = int(os.environ.get("WENTU_TEST_FUZZ_EXAMPLES", "50"))
IS_SHORT = EXAMPLES <= 50
SEED = int(os.environ.get("WENTU_TEST_SEED", "0"))
# The limit for searches and health checks of other callers. The short form has a higher one, since it runs in the suite
# on a busy machine.
LIMIT_SECONDS = float(os.environ.get("WENTU_TEST_FUZZ_LIMIT_SECONDS", "5" if IS_SHORT else "1"))
# If set, all examples run and all faults are listed. Otherwise a method stops at its first fault and shrinks it.
SURVEY = bool(os.environ.get("WENTU_TEST_FUZZ_SURVEY"))
JSON = os.environ.get("FUZZ_JSON", "")
METHODS = methods()


@pytest.fixture(scope="module")
def fuzzed(system: System) -> Iterator[Arena]:
    with arena(system) as made:
        yield made


def test_every_method_has_a_template() -> None:
    missing = {method.name for method in METHODS} - TEMPLATES.keys()
    assert not missing, f"tests/fuzz/templates.py has no valid request of {missing}"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_request_breaks_a_method(fuzzed: Arena, method: Method) -> None:
    template = TEMPLATES.get(method.name)
    examples = max(5, round(EXAMPLES * (template.share if template else 1)))
    floods = FLOODS[:2] if IS_SHORT else FLOODS
    found: dict[str, str] = {}

    # A seed instead of `derandomize`, since it does not change with the code and can be chosen. No database, so that no
    # run depends on an earlier one. Slow and large examples are intended here, so their health checks are off.
    @seed(zlib.crc32(f"{SEED} {method.name}".encode()))
    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(attempts(Target(method, fuzzed.world, floods)))
    def answers_are_right(attempt: Attempt) -> None:
        problem, outcome = fuzzed.attempt(attempt)
        if problem and SURVEY:
            found[problem] = f"{attempt!r}\n  -> {outcome!r}"
        else:
            assert not problem, f"{problem}\n{attempt!r}\n  -> {outcome!r}"

    with fuzzed.method(method):
        answers_are_right()
    assert not found, "\n".join(f"{problem}: {what}" for problem, what in found.items())


def test_nothing_stored_is_changed(fuzzed: Arena) -> None:
    assert contents(fuzzed.system, GUARDED) == fuzzed.stored


def test_every_process_lives(fuzzed: Arena) -> None:
    assert memory.pids(fuzzed.system) == fuzzed.pids


def test_no_service_logs_an_error(fuzzed: Arena) -> None:
    found = log_lines.complaints(fuzzed.system, fuzzed.log_ends)
    assert not found, "\n".join(f"{count} times: {kind}\n  {first}" for kind, (count, first) in found.items())


def test_others_are_answered_in_time(fuzzed: Arena) -> None:
    problems = [
        f"{name} took {seconds:.2f} s {error} during\n  {fuzzed.blamed(at, seconds)}"
        for name, seen in fuzzed.others().items()
        for at, seconds, error in [*seen["slowest"], *seen["failed"]]
        if error or seconds > LIMIT_SECONDS
    ]
    _write(fuzzed)
    assert not problems, "\n".join(problems[:12])


def _write(fuzzed: Arena) -> None:
    """Prints the report, and keeps it if FUZZ_JSON names a file: one line of JSON per pair of stores."""
    report = fuzzed.report()
    print(json.dumps({key: value for key, value in report.items() if key != "faults"}, indent=1, ensure_ascii=False))
    if JSON:
        with Path(JSON).open("a") as file:
            file.write(json.dumps(report, ensure_ascii=False) + "\n")
