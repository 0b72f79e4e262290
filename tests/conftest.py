"""For all tests: torch computes in one thread, here and in the processes that tests start.

With a worker for each core a parallel region waits for a thread that has no core: notebooks took twice as long.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
