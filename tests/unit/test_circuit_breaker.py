"""When a dependency is left alone, and when it is tried again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.upstreams import circuit_breaker
from gateway.upstreams.circuit_breaker import FAILURES, OPEN_SECONDS, CircuitBreaker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(now=1000.0)
    found.monotonic = lambda: found.now
    monkeypatch.setattr(circuit_breaker, "time", found)
    return found


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        assert breaker.allows()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row(clock: SimpleNamespace) -> None:
    assert not opened().allows()


def test_a_success_between_failures_keeps_it_closed(clock: SimpleNamespace) -> None:
    breaker = CircuitBreaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.failed()
        breaker.succeeded()
        assert breaker.allows()


def test_one_call_tries_again_after_a_while(clock: SimpleNamespace) -> None:
    breaker = opened()
    clock.now += OPEN_SECONDS - 0.001
    assert not breaker.allows()
    clock.now += 0.001
    assert [breaker.allows() for _ in range(3)] == [True, False, False], "one alone, before it is known how it went"
    clock.now += OPEN_SECONDS
    assert breaker.allows(), "that one never said how it went"


def test_a_trial_that_fails_keeps_it_open_and_one_that_succeeds_closes_it(clock: SimpleNamespace) -> None:
    breaker = opened()
    clock.now += OPEN_SECONDS
    assert breaker.allows()
    clock.now += 2
    breaker.failed()
    clock.now += OPEN_SECONDS - 1
    assert not breaker.allows(), "counted from the failure"
    clock.now += 1
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True] * 3
    breaker.failed()
    assert breaker.allows(), "it counts from the start again"
