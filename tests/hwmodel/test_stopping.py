"""What an `on_chunk` may answer, and that its line is closed."""

import numpy as np
import pytest

import hwmodel as hw


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        (True, True), (np.float32(1) < 2, True), ("stop", True), (np.str_("stop"), True),
        (False, False), (np.float32(3) < 2, False), (None, False), (1, False), (1.0, False),
        ("", False), ("go on", False), (np.ones(3, bool), False), ([True], False),
    ],
)  # fmt: skip
def test_true_and_stop_end_a_run(answer, stop):
    assert hw.wants_stop(answer) is stop


def test_what_can_be_closed_is_closed():
    class Line:
        closed = 0

        def close(self):
            self.closed += 1

    line = Line()
    hw.close_line(line)
    assert line.closed == 1
    for other in (None, print, object()):
        hw.close_line(other)
