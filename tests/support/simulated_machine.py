"""A machine whose clock and steps are simulated, for a tuner of threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from p2ch13.util.threads import ThreadTuner

ALL_OF_A_CORE = {1: 1.0, 2: 1.0}
QUIET = {1: 0.2, 2: 0.1}, ALL_OF_A_CORE


class Machine:
    """Simulates steps of `seconds[count]`, of which the calling thread has a core for `own_share[count]`.

    It stands for the module `time` where the tuner looks at the clock, see the fixture `simulate`.

    Attributes: `now`, seconds since the start; `steps`, their number by count of threads; `tuner`, of `counts`.
    """

    def __init__(
        self,
        seconds: Mapping[int, float],
        own_share: Mapping[int, float],
        counts: Sequence[int] = (1, 2),
        **options: Any,
    ) -> None:
        self.seconds, self.own_share = dict(seconds), own_share
        self.now = self.own = 0.0
        self.count = 0
        self.steps = Counter[int]()
        self.tuner = self.make_tuner(counts, **options)

    def make_tuner(self, counts: Sequence[int], **options: Any) -> ThreadTuner:
        def set_count(count: int) -> None:
            self.count = count

        return ThreadTuner(counts, set_count, **options)

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.own

    def run(self, step_count: int, size: float = 1.0, tuner: ThreadTuner | None = None) -> None:
        for _ in range(step_count):
            with (tuner or self.tuner).measuring(size):
                seconds = self.seconds[self.count] * size
                self.now += seconds
                self.own += seconds * self.own_share[self.count]
                self.steps[self.count] += 1
