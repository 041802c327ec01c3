"""Training steps of this and other packages, each in its own Python environment."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from prettytable import PrettyTable

from benchmarks.timing import StepCost, cost_cells, median_seconds, named_errors

# The second loss depends on a backward pass and an optimizer step. Later ones drift apart, because
# Adam turns rounding errors of tiny gradients into full steps.
COMPARED_LOSSES = 2
TOLERANCE = 1e-4
APPROXIMATE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class PeerCost(StepCost):
    """Cost of the training step of a peer.

    Attributes:
        losses: Losses of all steps, including the warm-up step.
    """

    losses: list[float]


class Peer:
    """A subprocess that takes a training step for each line it reads.

    It writes JSON objects to its standard output, one per line: ``{"ready": true}``, then for each
    step ``{"loss": ..., "memory": ...}`` with the memory in MiB. Other lines are ignored unless the
    process ends early; then they are part of the error. Leaving the context kills the process.

    Args:
        command: Program and arguments.

    Raises:
        FileNotFoundError: If the program does not exist.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(
                f'Program {command[0]} not found. Create its environment as described in '
                'docs/other_packages.md'
            )
        self.losses: list[float] = []
        self.memory = 0.0
        self._other_lines: deque[str] = deque(maxlen=20)
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
            ValueError: If it ends or sends an invalid reply.
        """
        self._read_reply('ready')

    def step(self) -> None:
        """Run a training step and record its loss and memory.

        Raises:
            ValueError: If the process ends or sends an invalid reply.
        """
        with suppress(BrokenPipeError):  # reported when the reply is read
            print('step', file=self._process.stdin, flush=True)
        reply = self._read_reply('loss', 'memory')
        self.losses.append(reply['loss'])
        self.memory = reply['memory']

    def _read_reply(self, *keys: str) -> dict[str, Any]:
        for line in self._process.stdout or ():
            if not line.startswith('{'):
                self._other_lines.append(line)
                continue
            with suppress(json.JSONDecodeError):
                reply = json.loads(line)
                if set(reply) == set(keys):
                    return reply
            raise ValueError(
                f'Invalid reply: expected only {" and ".join(keys)}, got {line.strip()}. See the '
                'protocol in docs/other_packages.md'
            )
        raise ValueError(
            f'Process ended with exit code {self._process.wait()} before its reply. Last output:\n'
            f'{"".join(self._other_lines)}'
        )


def measure_peers(
    commands: Mapping[str, Sequence[str]], rounds: int, approximate: Collection[str] = ()
) -> dict[str, PeerCost]:
    """Measure interleaved training steps of several programs.

    Args:
        commands: Command of each :class:`Peer` by name. All are in memory at the same time.
        rounds: Measured steps of each, after one warm-up step.
        approximate: Names of programs with another precision or optimizer, whose losses may differ
            by a relative 1e-2.

    Returns:
        Costs by name, in the same order.

    Raises:
        FileNotFoundError: If a program does not exist.
        ValueError: If a program fails, the losses of the first two steps differ by more than a
            relative 1e-4, or ``rounds`` is below 1.
    """
    with ExitStack() as stack:
        peers = {name: stack.enter_context(Peer(command)) for name, command in commands.items()}
        for name, peer in peers.items():
            with named_errors(name):
                peer.wait()
        first = next(iter(peers))
        steps = {
            name: _checked_step(
                peer,
                first,
                peers[first],
                APPROXIMATE_TOLERANCE if name in approximate else TOLERANCE,
            )
            for name, peer in peers.items()
        }
        seconds = median_seconds(steps, rounds)
        return {
            name: PeerCost(seconds[name], peer.memory, peer.losses) for name, peer in peers.items()
        }


def format_peer_costs(costs: Mapping[str, PeerCost]) -> str:
    """Format the costs as a table with ratios to the first one."""
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


def _checked_step(peer: Peer, first_name: str, first: Peer, tolerance: float) -> Callable[[], None]:
    def step() -> None:
        peer.step()
        place = len(peer.losses) - 1
        own, other = peer.losses[place], first.losses[place]
        if place < COMPARED_LOSSES and not math.isclose(own, other, rel_tol=tolerance):
            raise ValueError(
                f'Invalid loss in step {place + 1}: expected {other} as for {first_name}, got '
                f'{own}. Use the same weights, batch and loss weights for both'
            )

    return step
