"""`Peer`: one peer of a run, around an ordinary training loop. `attach` makes it."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from gossiptrain import intervals
from gossiptrain.errors import ConfigurationError, NameTakenError, PeerStoppedError
from gossiptrain.launchers import env
from gossiptrain.peer_config import PeerConfig
from gossiptrain.protocol.events import Event, StepsCompleted
from gossiptrain.protocol.peer_protocol import PeerProtocol
from gossiptrain.runtime import beginning, limits, resources, state, status
from gossiptrain.runtime.address_file import AddressFile
from gossiptrain.runtime.blocks import Blocks
from gossiptrain.runtime.busy import BusyLeases, is_compiled, original
from gossiptrain.runtime.checkpoint import FOLDER, Checkpoints
from gossiptrain.runtime.driver import Driver
from gossiptrain.runtime.joining import Joining
from gossiptrain.runtime.keeper import Keeper
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.runtime.progress import Progress
from gossiptrain.runtime.recorder import Recorder
from gossiptrain.runtime.saving import Saving
from gossiptrain.runtime.sharing import Sharing
from gossiptrain.runtime.state_transfer import StateTransfers
from gossiptrain.runtime.threads import start_on_one_core
from gossiptrain.runtime.weights import save_model
from gossiptrain.transport import ZeroMQTransport
from gossiptrain.transport.allocator import keep_pages
from gossiptrain.transport.fork_guard import ForkGuard

log = logging.getLogger("gossiptrain")

LEAVE_TIMEOUT_S = 3.0
# A checkpoint that is being written when training ends may finish.
SAVE_TIMEOUT_S = 120.0


class Peer:
    """One peer of a run; a context manager around the training loop."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, config: PeerConfig) -> None:
        """See `attach`, which is how scripts make one."""
        self.config = config
        self._model = original(model)
        self._is_compiled = is_compiled(model)
        self._settings = config.settings
        self._vector = ParameterVector(self._model, config.mix_buffers, config.codec)
        self._limits = limits.plan(config, self._vector)
        self._resources = resources.resources(self._vector.device)
        self._state = state.Model(self._model, optimizer, frozenset(spec.name for spec in self._vector.schema))
        self._progress = Progress()
        self._recorder = Recorder(self._settings.run_dir, self.name)
        self._busy = BusyLeases(self._tell)
        self._keeper = Keeper(self._state, self._identity(), self._vector.device, self._busy.during)
        self._saving: Saving | None = None
        self._compiling: object = None
        self._sharing: Sharing | None = None
        self._blocks = Blocks(
            self._vector,
            config.pacing,
            is_synchronous=config.mixer.kind == "round",
            # The protocol ends a round within twice its time-out.
            timeout_s=2 * config.exchange.round_timeout_s + 1,
        )
        self._driver: Driver | None = None
        self._counting: Driver | None = None  # also afterwards, when its numbers are final
        self._began_s = 0.0
        self._ended = False
        self._hook = optimizer.register_step_post_hook(lambda *_: self.step()) if optimizer is not None else None

    # What scripts use

    @property
    def name(self) -> str:
        """This peer's name in the run."""
        return self._settings.name

    @property
    def step_count(self) -> int:
        """Optimizer steps taken inside `with peer:`, after those of the checkpoint or of the peer that it began from."""
        return self._progress.step_count

    @property
    def block_count(self) -> int:
        """Blocks of local steps that have ended inside `with peer:`."""
        return self._blocks.clock.blocks

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Names of the peers that this one exchanges with at present."""
        return self._driver.neighbours if self._driver else ()

    @property
    def members(self) -> int:
        """How many peers live, as far as this one knows; itself included."""
        return self._driver.members if self._driver else 1

    @property
    def address(self) -> str:
        """The address that others give as a seed ("tcp://host:port"); empty outside `with peer:`."""
        return self._address if self._driver else ""

    @property
    def consensus_distance(self) -> float | None:
        """Moving estimate of the distance from this peer's parameters to the mean of all; None before an exchange."""
        return self._counting.distance if self._counting else None

    @property
    def exchange_count(self) -> int:
        """Mixes with neighbours so far."""
        return self._counting.exchanges if self._counting else 0

    def traffic(self) -> dict[str, int]:
        """Bytes sent and received so far ("bytes_sent", "bytes_received"), brought up to date twice a second."""
        return self._counting.traffic() if self._counting else {"bytes_sent": 0, "bytes_received": 0}

    def buffers(self) -> dict[str, int]:
        """Bytes held for exchanges by purpose, on top of the model: published, received, staged, states for newcomers."""
        report = self._vector.memory_report()
        return {**{key: value for key, value in report.items() if key != "parameters"}, **self._limits.held()}

    def record(self, **values: Any) -> None:
        """Shows values (numbers or one-element tensors) in this peer's progress, `loss` among them.

        They are read when progress is reported, twice a second; a step never waits for them.
        """
        self._progress.record({key: v.detach() if isinstance(v, torch.Tensor) else v for key, v in values.items()})

    def step(self) -> None:
        """Tells the peer that the optimizer has stepped; only for loops whose optimizer was not given to `attach`."""
        driver = self._driver
        if driver is None:
            self._progress.step_outside(self.name, self._ended)
            return
        now_s = self._progress.step()
        self._recorder.step(time.time())
        if self._compiling is not None:
            self._busy.end(self._compiling)
            self._compiling = None
        self._blocks.step(driver, self.step_count, now_s)
        if self._sharing is not None:
            self._sharing.step(now_s, self._blocks.clock.blocks)
        if self._saving is not None:
            self._saving.at_step(self.step_count)
        if self._keeper.wanted:
            self._keeper.at_step(self.step_count)
            self._blocks.clock.resume()

    def share_data(self, sharing: Sharing) -> None:
        """Has a sampler share data with the others'; `PeerSampler` calls it, and a peer can have one."""
        if self._sharing is not None:
            raise ConfigurationError("peer: has a PeerSampler already that shares data; a peer can have one of them")
        self._sharing, self._state.ledger = sharing, sharing.saved
        if self._driver is not None:
            sharing.begin(self._driver, self._state.ledger_found)

    def busy(self, seconds: float) -> AbstractContextManager[None]:
        """Tells the others that training pauses for up to so many seconds: `with peer.busy(60): evaluate()`.

        They wait for it that long instead of suspecting that it hangs. It is told for checkpoints and for the first step
        of a compiled model without being asked.

        Args:
            seconds: an upper bound; the pause is over when the block is.

        Raises:
            ConfigurationError: it is not a positive, finite number.
        """
        return self._busy.during(seconds)

    def checkpoint(self, wait: bool = False) -> None:
        """Writes a checkpoint of this very step, whether or not they are written by themselves.

        Args:
            wait: return only when it is on the disk; else it is written in the background.

        Raises:
            ConfigurationError: the peer has no run_dir, or is not inside `with peer:`.
            GossipTrainError: with `wait`, if it could not be written; what was there before is untouched.
        """
        if self._saving is None or self._driver is None:
            raise ConfigurationError(
                f"run_dir={self._settings.run_dir!r}: a checkpoint needs a folder, and a peer inside `with peer:`"
            )
        self._saving.now(self.step_count, wait)

    # Life

    def __enter__(self) -> Peer:
        """Joins the run: binds, finds a peer, takes its parameters. A founder begins at once.

        Raises:
            AddressInUseError: the listening address is taken.
            SeedUnreachableError: no seed answered; names each and how long it was tried.
            ModelMismatchError, MixerMismatchError, RunMismatchError, VersionMismatchError, NameTakenError: a peer
                refused this one.
            PeerStoppedError: the peer was used before.
        """
        if self._driver is not None or self._ended:
            raise PeerStoppedError(f"{self.name}: `with peer:` works once; attach again for another run")
        keep_pages()
        self._began_s = time.monotonic()
        self._driver = self._counting = self._start()
        try:
            self._join(self._driver)
        except BaseException as error:
            reason = f"failed to join: {type(error).__name__}"
            self._end(reason, ok=False, name_is_anothers=isinstance(error, NameTakenError))
            raise
        self._blocks.begin(self._driver)
        if self._sharing is not None:
            self._sharing.begin(self._driver, self._state.ledger_found)
        if self._is_compiled:
            self._compiling = self._busy.begin(self.config.compile_busy_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Says goodbye; after a clean loop saves the final model to the run's folder.

        Raises:
            PeerStoppedError: the network thread had failed while training went on alone.
        """
        failure = self._driver.failure if self._driver else None
        self._end("finished" if kind is None else f"stopped by {kind.__name__}", ok=kind is None)
        if kind is None and failure is not None:
            raise failure

    # How it is done

    def _start(self) -> Driver:
        boot = secrets.randbits(63) | 1
        begins = beginning.find(self._wish(), self._state)
        self._progress.begin_at(begins.step)
        transport = ZeroMQTransport(self.config.listening, boot)
        try:
            driver = self._driver_on(transport, boot, begins.founder)
            self._address_file = AddressFile(self._settings.run_dir, self.name, transport.control_address)
            self._address_file.write()
            self._fork_guard = ForkGuard(transport, self._forget_in_child)
            driver.completed(StepsCompleted(0, self._vector.publish().version, 0))
            start_on_one_core(driver)
        except BaseException:
            transport.close()
            raise
        self._address = transport.control_address
        self._recorder.record("Settings", **self.config.described())
        self._recorder.record("Resources", **self._resources.described(), **self._limits.described())
        if begins.saved:
            self._recorder.record("Resumed", step=begins.step, path=begins.saved)
        return driver

    def _wish(self) -> beginning.Wish:
        settings = self._settings
        resume = Path(settings.resume) if settings.resume not in ("", "1") else None
        return beginning.Wish(
            settings.name,
            settings.founder,
            settings.run_dir if settings.resume == "1" else resume,
            has_seeds=bool(settings.seeds),
            look=lambda: status.find_run(settings.run_id, env.seed_addresses(settings.seeds)),
        )

    def _driver_on(self, transport: ZeroMQTransport, boot: int, founder: bool) -> Driver:
        settings = self._settings
        protocol = self.config.protocol(
            boot=boot,
            founder=founder,
            control_address=transport.control_address,
            data_address=transport.data_address,
            parameters=tuple(spec.describe() for spec in self._vector.schema),
            snapshot_bytes=self._vector.nbytes,
            limits=self._limits.of_sending(transport.data_address),
        )
        return Driver(
            PeerProtocol(protocol),
            transport,
            self._vector,
            self.config.mixer,
            states=self._transfers_of,
            seeds=lambda: env.seed_addresses(settings.seeds),
            observe=self._recorder.notice,
            report=self._report,
        )

    def _transfers_of(self, driver: Driver) -> StateTransfers:
        return StateTransfers(
            driver.transport,
            self._vector,
            self._state,
            self._keeper,
            post=driver.tell,
            run_soon=driver.run_soon,
            step_s=lambda: (self.step_count, self._progress.average_step_s()),
            room=self._limits.room,
        )

    def _identity(self) -> state.Identity:
        versions = {"gossiptrain": version("gossiptrain"), "torch": str(torch.__version__)}
        schema = self._vector.schema_hash.hex()
        return state.Identity(self.name, self._settings.run_id, self.config.seed, schema, versions)

    def _tell(self, event: Event) -> None:
        if self._driver is not None:
            self._driver.tell(event)

    def _join(self, driver: Driver) -> None:
        joining = Joining(
            self.name,
            self._address,
            driver,
            self._vector,
            self._state,
            self._keeper,
            self._progress,
            self._began_s,
        )
        joining.wait(self.config.wait_for_peers, self.config.wait_timeout_s)
        settings = self._settings
        if settings.run_dir is not None:
            wish = settings.checkpoint_every
            every = intervals.parse("checkpoint_every", wish) if wish else None
            checkpoints = Checkpoints(settings.run_dir / FOLDER / self.name, settings.keep_checkpoints)
            self._saving = Saving(
                checkpoints, self._keeper, self._recorder, name=self.name, every=every, step=self.step_count
            )

    def _report(self) -> None:
        driver = self._driver
        if driver is None:
            return
        self._recorder.record("Progress", **self._progress.take(), **driver.progress(), **self._blocks.spent())
        for link in driver.link_times():
            self._recorder.record("LinkTimes", **link)
        self._recorder.flush()

    def _end(self, reason: str, ok: bool, name_is_anothers: bool = False) -> None:
        driver = self._driver
        if driver is None:
            return
        finished = False
        if self._sharing is not None:
            self._sharing.end()
        try:
            driver.leave(reason, LEAVE_TIMEOUT_S)
            if ok:
                self._vector.apply()
                if self._saving is not None:
                    self._saving.last(self.step_count)
                self._save()
                finished = driver.failure is None
        finally:
            self._driver, self._ended = None, True
            self._keeper.close(SAVE_TIMEOUT_S if ok else LEAVE_TIMEOUT_S)
            self._fork_guard.release()
            if self._hook is not None:
                self._hook.remove()
            with contextlib.suppress(OSError):
                self._address_file.withdraw(name_is_anothers)
            self._finish_record(driver, finished)

    def _save(self) -> None:
        if self._settings.run_dir is None:
            return
        folder = self._settings.run_dir / "models"
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder / f"{self.name}.safetensors", self._model)

    def _finish_record(self, driver: Driver, ok: bool) -> None:
        for link in [] if driver.is_alive() else driver.link_times(is_last=True):
            self._recorder.record("LinkTimes", **link)
        self._recorder.record(
            "Finished",
            step=self.step_count,
            seconds=round(time.monotonic() - self._began_s, 3),
            **driver.totals(),
            **self._blocks.spent(),
            ok=ok,
            counters=driver.counters,
        )
        self._recorder.close()

    def _forget_in_child(self) -> None:
        """In a forked child, which is no peer: steps there are nobody's business."""
        self._driver, self._ended = None, True
