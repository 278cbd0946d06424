"""Waiting that always ends."""

import time


def until(condition, within, what):
    """The first true value of `condition()`; an AssertionError that names `what` after `within` seconds."""
    end = time.monotonic() + within
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.02)
