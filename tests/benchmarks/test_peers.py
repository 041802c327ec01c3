"""Driver of the peers, with small Python programs instead of other packages."""

import sys
from contextlib import nullcontext

import pytest

from benchmarks import PeerCost, format_peer_costs, measure_peers
from benchmarks.peers import Peer

# The loss is multiplied by a factor after each step. Other output is as that of libraries.
PEER = """
import json, sys
loss, factor = float(sys.argv[1]), float(sys.argv[2])
print('Could not import something', flush=True)
print(json.dumps(dict(ready=True)), flush=True)
memory = 0
for line in sys.stdin:
    assert line == 'step\\n'
    memory += 5
    sys.stderr.write('a warning\\n')
    print(json.dumps(dict(loss=loss, memory=memory)), flush=True)
    loss *= factor
"""


@pytest.fixture
def peer(tmp_path):
    """Function that returns the command of a peer with this source and arguments."""

    def command(source, *arguments):
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}.py'
        path.write_text(source)
        return [sys.executable, '-S', str(path), *map(str, arguments)]

    return command


def test_peers_take_a_warm_up_step_and_the_rounds(peer):
    commands = dict(here=peer(PEER, 8, 0.5), there=peer(PEER, 8.0004, 0.5))
    costs = measure_peers(commands, rounds=3)
    assert list(costs) == ['here', 'there']
    assert costs['here'].losses == [8, 4, 2, 1]
    assert costs['there'].losses[0] == 8.0004
    assert [cost.memory for cost in costs.values()] == [20, 20]
    assert all(0 < cost.seconds < 60 for cost in costs.values())


@pytest.mark.parametrize(
    ('loss', 'factor', 'message'),
    [
        (8.002, 0.5, '^there: .* step 1: expected 8.0 as for here, got 8.002'),
        (8, 0.51, '^there: .* step 2: expected 4.0 as for here, got 4.08'),
        ('nan', 0.5, '^there: .* step 1: expected 8.0 as for here, got nan'),
    ],
)
def test_different_losses_raise(peer, loss, factor, message):
    with pytest.raises(ValueError, match=message):
        measure_peers(dict(here=peer(PEER, 8, 0.5), there=peer(PEER, loss, factor)), rounds=1)


@pytest.mark.parametrize(('loss', 'accepted'), [(8.06, True), (8.1, False)])
def test_losses_of_approximate_peers_may_differ_by_one_percent(peer, loss, accepted):
    commands = dict(here=peer(PEER, 8, 0.5), there=peer(PEER, loss, 0.5))
    with nullcontext() if accepted else pytest.raises(ValueError, match='^there: '):
        measure_peers(commands, rounds=1, approximate=['there'])


def test_later_losses_may_drift(peer):
    drifting = PEER.replace('loss *= factor', 'loss *= factor if memory < 10 else 0.9')
    costs = measure_peers(dict(here=peer(PEER, 8, 0.5), there=peer(drifting, 8, 0.5)), rounds=2)
    assert [cost.losses[2] for cost in costs.values()] == [2, 3.6]


@pytest.mark.parametrize(
    ('source', 'code', 'words'),
    [
        ('import no_such_package', 1, "No module named 'no_such_package'"),
        (
            'print("{\\"ready\\": true}"); input(); raise SystemExit("out of memory")',
            1,
            'out of me',
        ),
        ('print("{\\"ready\\": true}", flush=True); import os; os.close(0)', 0, ''),
        ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', -9, ''),
    ],
)
def test_ended_process_raises_with_its_output(peer, source, code, words):
    message = f'^there: Process ended with exit code {code} [^$]*{words}'
    with pytest.raises(ValueError, match=message):
        measure_peers(dict(here=peer(PEER, 8, 0.5), there=peer(source)), rounds=1)


@pytest.mark.parametrize('reply', ['{"loss": 1.0}', '{"loss": 1.0, "memo', '{"ready": true}'])
def test_invalid_reply_raises(peer, reply):
    source = f"print('{{\"ready\": true}}', flush=True); input(); print('{reply}', flush=True)"
    with pytest.raises(ValueError, match=f'expected only loss and memory, got {reply}'):
        measure_peers(dict(here=peer(source)), rounds=1)


def test_missing_interpreter_raises(peer):
    with pytest.raises(FileNotFoundError, match='/no/python not found'):
        measure_peers(dict(here=peer(PEER, 8, 0.5), there=['/no/python', 'peer.py']), rounds=1)


def test_process_is_killed_on_exit(peer):
    with Peer(peer(PEER, 8, 0.5)) as one:
        one.wait()
    assert one._process.poll() == -9


def test_format_peer_costs(cells_of):
    costs = dict(
        here=PeerCost(2.0, 200.0, [0.69314718, 0.5, 0.25]),
        there=PeerCost(2.5, 210.0, [0.69314718, 0.50000001]),
    )
    assert cells_of(format_peer_costs(costs))[1:] == [
        ['here', '2.000', '1.00', '200', '1.00', '0.693147 0.5'],
        ['there', '2.500', '1.25', '210', '1.05', '0.693147 0.5'],
    ]
