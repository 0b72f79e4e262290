"""Heterogeneous quadratics: every peer pulls towards its own optimum, and what the mean does is known in closed form.

Peer i minimizes f_i(x) = 1/2 sum_p a_ip (x_p - c_ip)^2. A local gradient step x <- x - lr a (x - c) contracts the
distance to c by d = 1 - lr a in each coordinate, so H steps without noise are x <- c + d^H (x - c). The minimum of the
sum of all f_i is x*_p = sum_i a_ip c_ip / sum_i a_ip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gossiptrain.errors import ConfigurationError
from sim.step_times import ConstantSteps, StepTimes
from sim.streams import generator
from sim.workload import Measures, Workload

Vector = npt.NDArray[np.floating]


class QuadraticWorkload(Workload):
    """See the module's text.

    Attributes:
        curvature_NP, optimum_NP: a and c of all peers, float64 [N, P]; peers beyond N begin again at the first.
        x: the parameters of each peer that has begun, float64 [P].
    """

    def __init__(
        self,
        curvature_NP: npt.ArrayLike,
        optimum_NP: npt.ArrayLike,
        *,
        learning_rate: float = 0.05,
        noise: float = 0.0,
        start: npt.ArrayLike = 0.0,
        snapshot_bytes: int | None = None,
        step_times: StepTimes | None = None,
    ) -> None:
        """
        Args:
            curvature_NP: positive, [N, P].
            optimum_NP: [N, P].
            learning_rate: not negative; below 2 / max(curvature), so that steps converge.
            noise: standard deviation of the noise added to each gradient.
            start: where peers begin: a number, [P], or [N, P].
            snapshot_bytes: bytes on the wire; default 8 P.
            step_times: default `ConstantSteps()`.
        """
        self.curvature_NP = np.atleast_2d(np.asarray(curvature_NP, dtype=np.float64))
        self.optimum_NP = np.atleast_2d(np.asarray(optimum_NP, dtype=np.float64))
        if self.curvature_NP.shape != self.optimum_NP.shape or not self.optimum_NP.size:
            raise ConfigurationError(
                f"optimum_NP: has shape {self.optimum_NP.shape}; must be that of curvature_NP, {self.curvature_NP.shape}"
            )
        if not (self.curvature_NP > 0).all():
            raise ConfigurationError("curvature_NP: must be positive everywhere")
        highest = 2 / float(self.curvature_NP.max())
        if not 0 <= learning_rate < highest:
            raise ConfigurationError(
                f"learning_rate={learning_rate!r}: must be at least 0 and below 2 / max(curvature) = {highest:g}"
            )
        if noise < 0:
            raise ConfigurationError(f"noise={noise!r}: must not be negative")
        self.learning_rate, self.noise = learning_rate, noise
        self._start_NP = np.broadcast_to(np.asarray(start, dtype=np.float64), self.optimum_NP.shape)
        self.snapshot_bytes = snapshot_bytes or 8 * self.optimum_NP.shape[1]
        self.step_times = step_times or ConstantSteps()
        self._contraction_NP = 1 - learning_rate * self.curvature_NP
        self._powers: dict[tuple[int, int], Vector] = {}
        self._chance: dict[int, np.random.Generator] = {}
        self.x: dict[int, Vector] = {}

    @staticmethod
    def random(
        peers: int, size: int = 10, *, seed: int = 0, spread: float = 1.0, **options: object
    ) -> QuadraticWorkload:
        """Draws curvatures in [0.5, 1.5) and optima of standard deviation `spread` for so many peers and parameters."""
        chance = generator(seed, "quadratic", peers, size)
        curvature_NP = chance.uniform(0.5, 1.5, (peers, size))
        return QuadraticWorkload(curvature_NP, spread * chance.standard_normal((peers, size)), **options)  # type: ignore[arg-type]

    def solution(self) -> Vector:
        """The minimum of the sum of all f_i, [P]."""
        weighted_P: Vector = np.sum(self.curvature_NP * self.optimum_NP, axis=0)
        return weighted_P / np.sum(self.curvature_NP, axis=0)

    def weighted_solution(self, weights_N: npt.ArrayLike) -> Vector:
        """The minimum of sum_i w_i f_i, [P]: where unequal numbers of steps, or rates of steps, w pull for small rates."""
        weighted_NP = np.asarray(weights_N, dtype=np.float64)[:, None] * self.curvature_NP
        return (weighted_NP * self.optimum_NP).sum(axis=0) / weighted_NP.sum(axis=0)

    def fixed_point(self, weights_NN: npt.ArrayLike, steps: npt.ArrayLike, scale: npt.ArrayLike = 1.0) -> Vector:
        """Where synchronous rounds of `steps` local steps and one mixing x <- W x come to rest, [N, P], after the mixing.

        From x = W (c + D (x - c)) with D = d^steps follows (I - W D) x = W (I - D) c, for each coordinate. Where a block's
        change is multiplied by s, D = 1 - s (1 - d^steps).

        Args:
            steps, scale: one for all, or one for each peer, [N].
        """
        W_NN = np.asarray(weights_NN, dtype=np.float64)
        n = len(W_NN)
        steps_N1, scale_N1 = (np.broadcast_to(np.asarray(x, dtype=np.float64), n)[:, None] for x in (steps, scale))
        D_NP, c_NP = 1 - scale_N1 * (1 - self._contraction_NP[:n] ** steps_N1), self.optimum_NP[:n]
        columns = [
            np.linalg.solve(np.eye(n) - W_NN * D_NP[:, p], W_NN @ ((1 - D_NP[:, p]) * c_NP[:, p]))
            for p in range(c_NP.shape[1])
        ]
        return np.stack(columns, axis=1)

    def begin(self, seed: int, peer: int) -> None:
        row = peer % len(self.optimum_NP)
        self.x[peer] = self._start_NP[row].copy()
        self._chance[peer] = generator(seed, "gradients", peer)

    def train(self, peer: int, steps: int) -> None:
        row = peer % len(self.optimum_NP)
        c_P = self.optimum_NP[row]
        if self.noise == 0:
            self.x[peer] = c_P + self._power(row, steps) * (self.x[peer] - c_P)
            return
        x_P, d_P = self.x[peer], self._contraction_NP[row]
        for draw_P in self._chance[peer].standard_normal((steps, len(x_P))):
            x_P = c_P + d_P * (x_P - c_P) - self.learning_rate * self.noise * draw_P
        self.x[peer] = x_P

    def publish(self, peer: int) -> Vector:
        return self.x[peer]  # steps and corrections replace the array, they never write into it

    def mix(self, own: Vector, inbox: Sequence[tuple[Vector, float]]) -> Vector:
        correction = np.zeros_like(own)
        for value, weight in inbox:
            correction += weight * (value - own)
        return correction

    def correct(self, peer: int, correction: Vector) -> None:
        self.x[peer] = self.x[peer] + correction

    def adopt(self, peer: int, value: Vector) -> None:
        self.x[peer] = value

    def spoil(self, value: Vector) -> Vector:
        return np.full_like(value, np.nan)

    def is_finite(self, value: Vector) -> bool:
        return bool(np.isfinite(value).all())

    def distance(self, one: Vector, other: Vector) -> float:
        return float(np.linalg.norm(one - other))

    def sample(self, value: Vector) -> Vector:
        return value

    def measure(self, peers: Sequence[int]) -> Measures:
        """Returns the consensus distance sqrt(mean_i ||x_i - mean||^2), ||mean - x*||, and of each peer ||x_i - x*||."""
        if not peers:
            return {}
        x_NP = np.stack([self.x[peer] for peer in peers])
        mean_P = x_NP.mean(axis=0)
        distance = float(np.sqrt(((x_NP - mean_P) ** 2).sum(axis=1).mean()))
        solution_P = self.solution()
        each = np.linalg.norm(x_NP - solution_P, axis=1).tolist()
        return {
            "consensus_distance": distance,
            "error": float(np.linalg.norm(mean_P - solution_P)),
            "peer_error": each,
        }

    def _power(self, row: int, steps: int) -> Vector:
        key = (row, steps)
        if key not in self._powers:
            self._powers[key] = self._contraction_NP[row] ** steps
        return self._powers[key]
