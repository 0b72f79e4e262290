"""What each of several peers on one machine gets of its processors: a share of the cores, one GPU in turn.

Found without importing a deep-learning framework, so that the launcher stays light.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from gossiptrain.runtime import cores

NVIDIA_SMI_TIMEOUT_S = 10.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def gpus(environ: Mapping[str, str]) -> list[str]:
    """Lists the GPUs that peers may use, as CUDA_VISIBLE_DEVICES names them.

    A CUDA_VISIBLE_DEVICES that is set already is the user's choice and is shared out; otherwise `nvidia-smi` is asked.
    Where there is none, the list is empty.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [name for name in names if name and name != "-1"]
    return [str(index) for index in range(_nvidia_gpus())]


def environment(
    position: int, peers: int, gpu_names: list[str], environ: Mapping[str, str], threads: int | None = None
) -> dict[str, str]:
    """Returns the variables that give one peer its share.

    Args:
        position: The peer's place among those started together, from 0.
        peers: How many are started together.
        gpu_names: What `gpus` returned; dealt out in turn, so peers beyond their number share.
        environ: The launcher's own environment; thread counts set there are kept unless `threads` is given.
        threads: CPU threads per peer; None divides the cores that this machine's limits leave (see `runtime.cores`),
            at least one each.
    """
    share = threads if threads is not None else cores.threads_for(cores.usable(), peers)
    kept = {} if threads is not None else environ
    values = {variable: str(share) for variable in _THREAD_VARIABLES if variable not in kept}
    if gpu_names:
        values["CUDA_VISIBLE_DEVICES"] = gpu_names[position % len(gpu_names)]
    return values


def _nvidia_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listing = subprocess.run(
            [program, "--list-gpus"], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines()) if listing.returncode == 0 else 0
