"""How many of the samples that a loader has taken are surely in an optimizer step, told by the steps alone.

A loader runs ahead of training by a number of samples that stays the same while it has some to take: with I_k the samples
taken in a pass when its step k has ended, at least I_k - I_1 of them were trained by then. When a pass has none left to
take, each further step still trains as many as the steps did on average; so of k steps, at least k - 1 are sure.
"""

from __future__ import annotations


class Consumption:
    """Counts one pass after the other.

    Attributes:
        issued: samples that the loader has taken in this pass.
        per_step: samples of a step on average, 0 while nothing tells.
    """

    def __init__(self) -> None:
        self.per_step = 0.0
        self._begin()

    def _begin(self) -> None:
        self.issued = 0
        self._steps = self._at_first = 0
        self._is_exhausted = False

    def exhausted(self) -> None:
        """The pass has no more samples to take."""
        self._is_exhausted = True

    def step(self) -> None:
        """An optimizer step has ended."""
        self._steps += 1
        if self._steps == 1:
            self._at_first = self.issued
        elif not self._is_exhausted and self.issued > self._at_first:
            self.per_step = (self.issued - self._at_first) / (self._steps - 1)

    def certain(self) -> int:
        """Returns how many of the samples taken in this pass are trained for sure, the first taken first."""
        if not self._steps:
            return 0
        by_steps = int((self._steps - 1) * self.per_step) if self._is_exhausted else 0
        return min(self.issued, max(self.issued - self._at_first, by_steps))

    def settle(self) -> int:
        """Another pass begins, or training is over: returns how many samples of this one are trained.

        Of a pass that was left early those count that are certain; of one whose samples were all taken, those that its
        steps could hold. What fills no step (`drop_last`, a last accumulation) may not be trained, and does not count.
        """
        trained = self.certain()
        if self._is_exhausted and self._steps:
            # Where the loader had taken all before the first step, nothing tells an early end from a finished pass.
            self.per_step = self.per_step or self.issued / self._steps
            trained = max(trained, min(self.issued, round(self._steps * self.per_step)))
        self._begin()
        return trained
