"""The driver, with small programs of this Python for the packages."""

import sys

import pytest

from benchmarks import PeerCost, format_peer_costs, measure_peers
from benchmarks.peers import Peer

# Tells its loss of the first step and what comes of it in each step; talks as libraries do.
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
    """The command of a peer of this source, with arguments."""

    def command(source, *arguments):
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}.py'
        path.write_text(source)
        return [sys.executable, '-S', str(path), *map(str, arguments)]

    return command


def test_all_take_one_step_that_does_not_count_and_the_rounds(peer):
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
        (8.002, 0.5, '^there: The loss of step 1 is 8.002, but that of here is 8.0, so not the'),
        (8, 0.51, '^there: The loss of step 2 is 4.08, but that of here is 4.0, so not the same'),
        ('nan', 0.5, '^there: The loss of step 1 is nan, but that of here is 8.0'),
    ],
)
def test_peers_that_do_something_else_are_named(peer, loss, factor, message):
    with pytest.raises(ValueError, match=message):
        measure_peers(dict(here=peer(PEER, 8, 0.5), there=peer(PEER, loss, factor)), rounds=1)


def test_a_loss_that_drifts_later_is_left_alone(peer):
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
def test_one_that_ends_is_named_with_what_it_said(peer, source, code, words):
    message = f'^there: It ended with exit code {code} where an answer was expected[^$]*{words}'
    with pytest.raises(ValueError, match=message):
        measure_peers(dict(here=peer(PEER, 8, 0.5), there=peer(source)), rounds=1)


@pytest.mark.parametrize('answer', ['{"loss": 1.0}', '{"loss": 1.0, "memo', '{"ready": true}'])
def test_an_answer_of_another_kind_is_told(peer, answer):
    source = f"print('{{\"ready\": true}}', flush=True); input(); print('{answer}', flush=True)"
    with pytest.raises(ValueError, match=f'with loss and memory alone, got {answer}; see docs/'):
        measure_peers(dict(here=peer(source)), rounds=1)


def test_no_such_interpreter(peer):
    message = 'There is no program /no/python; name the Python of an environment made as docs/peers'
    with pytest.raises(FileNotFoundError, match=message):
        measure_peers(dict(here=peer(PEER, 8, 0.5), there=['/no/python', 'peer.py']), rounds=1)


def test_no_process_is_left(peer):
    with Peer(peer(PEER, 8, 0.5)) as one:
        one.wait()
    assert one._process.poll() == -9


def test_the_table_by_hand():
    costs = dict(
        here=PeerCost(2.0, 200.0, [0.69314718, 0.5, 0.25]),
        there=PeerCost(2.5, 210.0, [0.69314718, 0.50000001]),
    )
    rows = [line.split('|')[1:-1] for line in format_peer_costs(costs).splitlines()[3:-1]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ['here', '2.000', '1.00', '200', '1.00', '0.693147 0.5'],
        ['there', '2.500', '1.25', '210', '1.05', '0.693147 0.5'],
    ]
