"""The `gossiptrain` command: launch peers on this machine, be one, ask a running one, report on a run.

Nothing here imports torch: the launcher stays beside its peers for as long as they train.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from gossiptrain.commands import DEFAULT_CODEC, DEFAULT_MIXER, DEFAULT_TOPOLOGY, HELP, LAUNCH, PEER, REPORT, STATUS
from gossiptrain.errors import ConfigurationError, GossipTrainError
from gossiptrain.launchers import devices, run_folder
from gossiptrain.launchers.env import PeerSettings
from gossiptrain.launchers.local import LaunchConfig, LocalRun, check_listen

# Of a large group so many are asked for their own pace; the others are shown as they are known.
ASKED_MAX = 64
DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "launch": (LAUNCH, _launch),
        "peer": (PEER, _peer),
        "status": (STATUS, _status),
        "report": (REPORT, _report),
    }
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return DONE if given else WRONG_USE
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"gossiptrain {version('gossiptrain')}")
        return DONE
    if given[0] not in commands:
        return _complain(f"{given[0]!r}: unknown command; known: {', '.join(commands)}", WRONG_USE)
    command, run = commands[given[0]]
    try:
        options = command.parse(given[1:])
        if options is None:
            command.show_help(Console())
            return DONE
        return run(options)
    except ConfigurationError as error:
        return _complain(str(error), WRONG_USE)
    except GossipTrainError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _launch(options: SimpleNamespace) -> int:
    from gossiptrain.dashboard.summary import sum_up
    from gossiptrain.dashboard.table import Caption
    from gossiptrain.dashboard.terminal import open_display
    from gossiptrain.dashboard.watch import Watch, relative

    if options.allow_failures < 0:
        raise ConfigurationError(f"allow_failures={options.allow_failures}: must be 0 or more")
    config = _launch_config(options)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # whatever a peer prints, this terminal can show it somehow
    console = Console()
    with LocalRun(config) as run:
        count = f"{config.peers} peer{'s' * (config.peers > 1)}"
        caption = Caption(config.script.stem, (count, config.topology, config.mixer))
        display = open_display(options.progress, console, run.names, caption)
        watch = Watch(run, display)
        try:
            display.note(f"Run folder  {relative(run.folder.path)}")
            if config.peers == 1 and not config.join:
                display.note("One peer: it trains alone until others join.")
            watch.to_the_end()
        finally:
            display.close()
        success = sum_up(run, console, options.allow_failures)
        console.print(f"Run folder  {relative(run.folder.path)}", soft_wrap=True, highlight=False, markup=False)
    if watch.interrupts.count:
        return 128 + watch.interrupts.number
    return DONE if success else FAILED


def _launch_config(options: SimpleNamespace) -> LaunchConfig:
    resume, before = _resumed(options)
    peers = options.peers
    if peers is None:
        peers = 1 if options.join or options.name else len(before) or len(devices.gpus(os.environ)) or 2
    if options.name is not None and peers != 1:
        raise ConfigurationError(f"name={options.name!r}: names one peer, but peers={peers}; leave one of them out")
    config = LaunchConfig(
        script=Path(options.positional),
        arguments=options.tail,
        peers=peers,
        topology=options.topology,
        mixer=options.mixer,
        codec=options.codec,
        sync_every=options.sync_every,
        run_dir=options.run_dir,
        join=options.join,
        listen=options.listen,
        insecure=options.insecure,
        threads=options.threads,
        names=(options.name,) if options.name is not None else _names(before, peers) if before else None,
        checkpoint_every=options.checkpoint_every,
        keep_checkpoints=options.keep_checkpoints,
        resume=resume,
        max_mbps=options.max_mbps,
        max_buffer_mb=options.max_buffer_mb,
    )
    _check_names(options)
    _check_program(config.script)
    if resume is not None:
        from gossiptrain.launchers.seeds import clear_the_way

        clear_the_way(run_folder.reopen(resume))
    if not config.join:
        return config
    from gossiptrain.launchers.seeds import find_run

    return replace(config, run_id=find_run(config.join))


def _resumed(options: SimpleNamespace) -> tuple[Path | None, list[str]]:
    """Returns the folder of the run to go on with, and the names of its peers that left checkpoints."""
    if options.resume is None:
        return None, []
    path = run_folder.newest() if str(options.resume) == "latest" else options.resume
    return path, sorted(run_folder.reopen(path).checkpoints(), key=lambda name: (len(name), name))


def _names(before: list[str], peers: int) -> tuple[str, ...]:
    """Gives peers the names of those that left checkpoints, and new ones to the rest."""
    free = (name for number in range(peers + len(before)) if (name := f"peer-{number}") not in before)
    return tuple(itertools.islice(itertools.chain(before, free), peers))


def _peer(options: SimpleNamespace) -> int:
    script = Path(options.positional)
    check_listen(options.listen, options.insecure)
    _check_names(options)
    settings = PeerSettings(
        name=options.name,
        run_id=options.run_id,
        run_dir=options.run_dir.absolute() if options.run_dir else None,
        listen=options.listen,
        seeds=options.seeds,
        founder=not options.seeds,
        topology=options.topology,
        mixer=options.mixer,
        codec=options.codec,
        sync_every=options.sync_every,
        insecure=options.insecure,
        checkpoint_every=options.checkpoint_every,
        keep_checkpoints=options.keep_checkpoints,
        resume="1" if options.resume else "",
        max_mbps=options.max_mbps,
        max_buffer_mb=options.max_buffer_mb,
    )
    _check_program(script)
    os.environ.update(settings.environment())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(script), *options.tail])


def _status(options: SimpleNamespace) -> int:
    from gossiptrain.dashboard.status import show, together
    from gossiptrain.launchers.seeds import ask_any, known_addresses
    from gossiptrain.runtime.status import ask_all

    if not 0 < options.timeout_s < float("inf"):
        raise ConfigurationError(f"timeout_s={options.timeout_s}: must be a positive number of seconds")
    status = ask_any(known_addresses(options.positional), options.timeout_s)
    living = [member.address for member in status.members if member.state in ("alive", "busy")]
    others = ask_all(living[:ASKED_MAX], min(1.0, options.timeout_s)) if living else []
    show(together(status, others), Console())
    return DONE


def _report(options: SimpleNamespace) -> int:
    from gossiptrain.dashboard.report import report

    folder = run_folder.newest() if options.positional == "latest" else Path(options.positional)
    report(folder, Console(), options.html, options.chrome_trace, options.open)
    return DONE


def _check_names(options: SimpleNamespace) -> None:
    """Refuses unknown topologies, mixers and codecs before anything starts; for the defaults nothing is imported."""
    if options.topology != DEFAULT_TOPOLOGY:
        from gossiptrain.protocol.rewiring import check_topology

        check_topology(options.topology)
    if options.codec != DEFAULT_CODEC:
        from gossiptrain.compression import by_name as codec_by_name

        codec_by_name(options.codec)
    if options.mixer != DEFAULT_MIXER:
        from gossiptrain.mixing.registry import by_name

        try:
            by_name(options.mixer)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None


def _check_program(script: Path) -> None:
    """Refuses a script that is missing or that Python cannot read, once instead of once per peer."""
    if not script.is_file():
        raise ConfigurationError(f"script={str(script)!r}: no such file")
    try:
        compile(script.read_bytes(), str(script), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ConfigurationError(f"script={str(script)!r}: not a Python program: {error}") from None


def _complain(message: str, code: int) -> int:
    print(f"gossiptrain: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
