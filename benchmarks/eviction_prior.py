"""How the weights of the reuse forecast vary from trace to trace: what it assumes before it has seen anything.

    python -m benchmarks.eviction_prior --seeds 10 --first-seed 112

On each trace of ``benchmarks.eviction_traces`` the weights are fitted in hindsight, to every model at every use; printed is
the covariance of those weights, the lower triangle, as ``worker/eviction/reuse_forecast.py`` has it.
"""

import argparse
import math

import numpy as np

from benchmarks.eviction_traces import SHAPES, SIZES, make_trace
from worker.eviction.reuse_forecast import HORIZON, observe
from worker.eviction.use_history import UseHistory
from worker.tools.simulate.trace import Trace

_FIRST = 30
"""Uses at the beginning that are left out."""


def fitted(trace: Trace) -> np.ndarray:
    """Return the weights that foretell the logarithm of the uses until the next one best, with a weak ridge."""
    history, horizon = UseHistory(), HORIZON * len(trace.models)
    following, coming = [dict[str, int]() for _ in trace.uses], dict[str, int]()
    for use in range(len(trace.uses) - 1, -1, -1):
        following[use] = dict(coming)
        coming[trace.uses[use]] = use
    seen, truths = [], []
    for use, model_id in enumerate(trace.uses):
        history.used(model_id, None)
        if _FIRST <= use < len(trace.uses) - horizon:
            for model in history.models.values():
                left = following[use].get(model.id, len(trace.uses)) - use
                seen.append(observe(model, history))
                truths.append(math.log(2 * horizon if left > horizon else left))
    table = np.array(seen)
    ridge = np.eye(table.shape[1]) * len(table) / len(trace.uses)
    return np.linalg.solve(table.T @ table + ridge, table.T @ np.array(truths))


def main() -> int:
    """Print the covariance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=112)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    weights = [
        fitted(make_trace(shape, sizes, seed)) for shape in SHAPES for sizes in SIZES for seed in seeds
    ]
    for index, row in enumerate(np.cov(np.array(weights).T)):
        print(f"    ({', '.join(f'{each:.3f}' for each in row[: index + 1])}),")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
