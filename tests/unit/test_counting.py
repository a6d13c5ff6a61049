"""When a difference between the two stores is told."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.maintenance.counting import LOOKS, StoreCounts, standing


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([(5, 3)], None),
        ([(5, 3), (5, 3)], (5, 3)),
        ([(3, 5), (3, 5)], (3, 5)),
        ([(5, 5), (5, 5)], None),
        ([(5, 3), (5, 5)], None),
        ([(64, 32), (96, 64)], None),  # an import: the same difference, and other images
        ([(100 * n, 100 * n - 32) for n in range(1, LOOKS)], None),
        ([(100 * n, 100 * n - 30 - n) for n in range(1, LOOKS + 1)], (100, 69)),
        ([(100 * n, 100 * n - (n != 4)) for n in range(1, LOOKS + 1)], None),
    ],
)
def test_a_difference_that_stands(looks: list[tuple[int, int]], told: tuple[int, int] | None) -> None:
    found = standing(deque((StoreCounts(*each) for each in looks), maxlen=LOOKS))
    assert found == (None if told is None else StoreCounts(*told))
