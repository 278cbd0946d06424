"""The tests of `tests/` that take too long for `cargo test`, one at a time."""

import pytest

from support import places


@pytest.mark.parametrize(
    "name",
    [
        "flips::of_a_thousand_flips_none_is_missed",
        "storm::a_dead_tier_below_three_others_gets_no_storm_and_calls_succeed_soon_after",
    ],
)
def test_ignored(programs, name):
    running = programs.start("tests", [places.tests(), name, "--exact", "--ignored", "--nocapture"])
    status = running.wait(110)
    assert (status, "1 passed" in running.text()) == (0, True), running.tail()
