"""Training steps of this package compared with other packages, each in its own environment."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from prettytable import PrettyTable

from benchmarks.timing import cost_cells, median_seconds, named_errors

# The second loss comes after a backward and a step of the optimiser. Later ones drift apart: Adam
# makes whole steps of what rounding leaves of the smallest gradients.
COMPARED_LOSSES = 2
TOLERANCE = 1e-4


@dataclass(frozen=True)
class PeerCost:
    """Cost of the training step of a peer.

    Attributes:
        seconds: Median over the rounds.
        memory: Peak resident memory of its process in MiB, above that before the networks were
            built.
        losses: Losses of all steps. The first step is not timed.
    """

    seconds: float
    memory: float
    losses: list[float]


class Peer:
    """A subprocess that takes a training step for each line it reads.

    It writes JSON objects to its standard output, one per line: ``{"ready": true}``, then for each
    step ``{"loss": ..., "memory": ...}`` with the memory in MiB. Lines that do not begin with a
    brace are ignored, but printed if the process ends. It is killed when the context exits.

    Args:
        command: Program and arguments.

    Raises:
        FileNotFoundError: If the program does not exist.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(
                f'There is no program {command[0]}; name the Python of an environment made as '
                'docs/other_packages.md tells'
            )
        self.losses: list[float] = []
        self.memory = 0.0
        self._chatter: deque[str] = deque(maxlen=20)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self) -> None:
        """Wait until the process is ready.

        Raises:
            ValueError: If it ends or writes something else.
        """
        self._answer('ready')

    def step(self) -> None:
        """Run a training step and record its loss and memory.

        Raises:
            ValueError: If the process ends or writes something else.
        """
        with suppress(BrokenPipeError):  # there will be no answer
            print('step', file=self._process.stdin, flush=True)
        answer = self._answer('loss', 'memory')
        self.losses.append(answer['loss'])
        self.memory = answer['memory']

    def _answer(self, *keys: str) -> dict[str, Any]:
        for line in self._process.stdout or ():
            if not line.startswith('{'):
                self._chatter.append(line)
                continue
            with suppress(json.JSONDecodeError):
                answer = json.loads(line)
                if set(answer) == set(keys):
                    return answer
            raise ValueError(
                f'Expected an answer with {" and ".join(keys)} alone, got {line.strip()}; see '
                'docs/other_packages.md for what a program has to say'
            )
        raise ValueError(
            f'It ended with exit code {self._process.wait()} where an answer was expected. Mend '
            f'what it said:\n{"".join(self._chatter)}'
        )


def measure_peers(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, PeerCost]:
    """Measure interleaved training steps of several programs.

    Args:
        commands: Command of each :class:`Peer` by name. All are in memory at the same time.
        rounds: Measured steps of each, after one warm-up step.

    Returns:
        Costs by name, in the same order.

    Raises:
        FileNotFoundError: If a program does not exist.
        ValueError: If a program fails, the losses of the first two steps differ by more than a
            relative 1e-4, so that the programs compute different things, or ``rounds`` is below 1.
    """
    with ExitStack() as stack:
        peers = {name: stack.enter_context(Peer(command)) for name, command in commands.items()}
        for name, peer in peers.items():
            with named_errors(name):
                peer.wait()
        first = next(iter(peers))
        steps = {name: _checked_step(peer, first, peers[first]) for name, peer in peers.items()}
        seconds = median_seconds(steps, rounds)
        return {
            name: PeerCost(seconds[name], peer.memory, peer.losses) for name, peer in peers.items()
        }


def format_peer_costs(costs: Mapping[str, PeerCost]) -> str:
    """Format the costs as a table, relative to the first one."""
    table = PrettyTable(
        ['package', 'seconds', 'ratio', 'peak MiB', 'ratio of memory', 'losses'], align='r'
    )
    table.align['package'] = 'l'
    first = next(iter(costs.values()))
    for name, cost in costs.items():
        table.add_row(
            [
                name,
                *cost_cells(cost, first),
                ' '.join(f'{loss:.6g}' for loss in cost.losses[:COMPARED_LOSSES]),
            ]
        )
    return table.get_string()


def _checked_step(peer: Peer, first_name: str, first: Peer) -> Callable[[], None]:
    def step() -> None:
        peer.step()
        place = len(peer.losses) - 1
        own, other = peer.losses[place], first.losses[place]
        if place < COMPARED_LOSSES and not math.isclose(own, other, rel_tol=TOLERANCE):
            raise ValueError(
                f'The loss of step {place + 1} is {own}, but that of {first_name} is {other}, so '
                'not the same thing is measured; give both the same weights, batch and factors'
            )

    return step
