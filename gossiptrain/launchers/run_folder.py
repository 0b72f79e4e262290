"""The folder of one run: who was started and how, what happened, and the models that came out.

RUN/config.json           the command, the settings, the versions
RUN/summary.json          how each peer ended
RUN/logs/NAME.log         everything a peer printed
RUN/peers/NAME.address    where a peer listens
RUN/events/NAME.jsonl     what a peer noticed, one JSON object a line
RUN/events/NAME.steps     when it stepped, float64 seconds
RUN/checkpoints/NAME/     a peer's checkpoints
RUN/models/NAME.safetensors, RUN/models/average.safetensors
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gossiptrain.errors import ConfigurationError

AVERAGE = "average.safetensors"
_VERSIONS_OF = ("gossiptrain", "torch", "pyzmq", "numpy")


class RunFolder:
    """Paths within a run's folder.

    Args:
        path: The folder; made absolute, so that peers that change their directory still find it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    @property
    def peers(self) -> Path:
        """Where peers leave their addresses."""
        return self.path / "peers"

    @property
    def average(self) -> Path:
        """The average of all survivors' models."""
        return self.path / "models" / AVERAGE

    def log(self, name: str) -> Path:
        """What a peer printed."""
        return self.path / "logs" / f"{name}.log"

    def events(self, name: str) -> Path:
        """What a peer noticed."""
        return self.path / "events" / f"{name}.jsonl"

    def steps(self, name: str) -> Path:
        """When a peer stepped."""
        return self.path / "events" / f"{name}.steps"

    def model(self, name: str) -> Path:
        """A peer's final model."""
        return self.path / "models" / f"{name}.safetensors"

    def address(self, name: str) -> str | None:
        """Returns where a peer listens, or None while it has not said so."""
        try:
            return (self.peers / f"{name}.address").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def models(self) -> list[Path]:
        """Lists the final models of the peers, by name."""
        return sorted(path for path in (self.path / "models").glob("*.safetensors") if path.name != AVERAGE)

    def names(self) -> list[str]:
        """Lists the peers that have left events or an address."""
        files = [*self.path.glob("events/*.jsonl"), *self.path.glob("peers/*.address")]
        return sorted({path.stem for path in files})

    def checkpoints(self) -> list[str]:
        """Lists the peers that have left checkpoints."""
        return sorted({path.parent.name for path in self.path.glob("checkpoints/*/*.json")})

    def recorded(self) -> dict[str, Any]:
        """Returns what config.json says of the run.

        Raises:
            ConfigurationError: there is none, or it cannot be read.
        """
        path = self.path / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: is not the config of a run ({error}); name a run's folder") from error

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a file whole or not at all."""
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path / name)


def create(path: Path | str | None, script: Path, shared: bool = False) -> RunFolder:
    """Makes the folder of a new run.

    Args:
        path: Where; None takes runs/DATE-TIME-SCRIPT below the current directory.
        script: Gives the folder its name where none is given.
        shared: Another launcher's peers may be in the folder already (`--join`).

    Raises:
        ConfigurationError: The folder holds another run, whose addresses would mislead the new peers, or cannot be made.
    """
    folder = RunFolder(_fresh(script) if path is None else path)
    if not shared and (folder.path / "config.json").exists():
        raise ConfigurationError(f"run_dir={str(path)!r}: holds another run; name a new folder, or remove it")
    try:
        folder.peers.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"run_dir={str(folder.path)!r}: {error.strerror}; name a folder to write to"
        ) from error
    return folder


def reopen(path: Path | str) -> RunFolder:
    """Opens the folder of a run that is to go on from its checkpoints.

    Raises:
        ConfigurationError: It is none, or holds no checkpoint.
    """
    folder = RunFolder(path)
    folder.recorded()
    if not folder.checkpoints():
        raise ConfigurationError(
            f"resume={str(path)!r}: this run left no checkpoints; they are written with --checkpoint-every"
        )
    folder.peers.mkdir(exist_ok=True)
    return folder


def newest() -> Path:
    """Returns the newest run's folder below runs/.

    Raises:
        ConfigurationError: There is none.
    """
    found = [path.parent for path in Path("runs").glob("*/config.json")]
    if not found:
        raise ConfigurationError("'latest': there is no run below runs/; name a run's folder")
    return max(found, key=lambda path: (path / "config.json").stat().st_mtime)


def provenance(command: Iterable[str]) -> dict[str, Any]:
    """Returns what a reader of next year needs to repeat a run: command, time, machine, versions."""
    return {
        "command": list(command),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _VERSIONS_OF},
        "interpreter": sys.executable,
    }


def _fresh(script: Path) -> Path:
    base = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{script.stem}"
    candidates = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in range(1, 1000))
    return next(path for path in candidates if not path.exists())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
