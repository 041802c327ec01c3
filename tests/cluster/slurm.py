"""A Slurm cluster of two nodes on the loopback interface, with all of its files in one folder."""

import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol', 'scancel', 'squeue')
PATH = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin'])
NODES = ('node1', 'node2')
# Debian's package supports several slurmd per machine. 5 s is the shortest `cred_expire`, for which
# requeued jobs are held; by default 120 s. `slurmctld` checks time limits every 30 s.
SETTINGS = """
ClusterName=mmkdml
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
KillWait=20
OverTimeLimit=0
SlurmdTimeout=10
ReturnToService=2
JobRequeue=1
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs():
    """Return the programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def wait_until(condition, what, seconds=300):
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f'no {what() if callable(what) else what} in {seconds} s'
        time.sleep(0.2)
    return value


def _free_ports(number):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]


def _die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Slurm:
    """Context manager that starts the daemons of a cluster, and stops them with all jobs.

    Args:
        folder: Empty folder for sockets, state and logs; its path must be short.
    """

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith('SLURM_')},
            'PATH': PATH,
            'SLURM_CONF': str(self.folder / 'slurm.conf'),
        }
        self._daemons = {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start all daemons and wait until both nodes are idle."""
        (self.folder / 'state').mkdir()
        key = self.folder / 'munge.key'
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname()
        settings = dict(user=user, host=host, folder=self.folder, nodes=NODES)
        text = SETTINGS.format(ports=_free_ports(3), **settings)
        (self.folder / 'slurm.conf').write_text(text)
        kinds = ('key', 'pid', 'log', 'seed')
        files = [f'--{kind}-file={self.folder}/munge.{kind}' for kind in kinds]
        socket_file = self.folder / 'munge.socket'
        self._start('munged', '--foreground', '--force', f'--socket={socket_file}', *files)
        wait_until(socket_file.exists, self._logs)
        self._start('slurmctld', '-D')
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self._idle_nodes() == len(NODES), self._logs)

    def stop(self):
        """Cancel all jobs and stop the daemons."""
        if len(self._daemons) > 1:  # slurmctld was started
            self.run('scancel', f'--user={os.getuid()}', check=False)
            with suppress(AssertionError):
                wait_until(lambda: not self.run('squeue', '-h', check=False), 'end of jobs', 30)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        self._kill(lambda command, variables: True)

    def start_node(self, node):
        """Start the daemon of a node."""
        self._start('slurmd', '-D', '-N', node, name=node)

    def fail_node(self, node):
        """Kill the daemon of a node and all processes of its jobs."""
        self._daemons[node].kill()
        self._daemons.pop(node).wait()
        steps = rf'slurmstepd: \[({"|".join(self._jobs_on(node))})\.'
        self._kill(lambda command, variables: re.match(steps, command))
        self._kill(lambda command, variables: f'SLURMD_NODENAME={node}' in variables)

    def run(self, *command, check=True):
        """Return what a command prints, with the environment of the cluster."""
        done = subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f'{command}: {done.stdout}{done.stderr}'
        return done.stdout.strip()

    def submit(self, script, *arguments, **variables):
        """Submit a job with a script of ``tools``, and return its id.

        Args:
            script: Path of the script.
            arguments: Arguments after the partition.
            variables: Environment variables.
        """
        settings = [f'{key}={value}' for key, value in variables.items()]
        return self.run('env', *settings, 'bash', script, 'test', *arguments).split()[-1]

    def job(self, job):
        """Return the fields of a job, such as ``JobState`` and ``Restarts``."""
        fields = self.run('scontrol', '--oneliner', 'show', 'job', job).splitlines()[0]
        return dict(re.findall(r'(\w+)=(\S*)', fields))

    def end_soon(self, job):
        """Set the time limit of a running job to half a minute from now."""
        self.run('scontrol', 'update', f'JobId={job}', 'EndTime=now+30')

    def wait(self, job, state='COMPLETED', seconds=600):
        """Wait until a job has ended, check its state, and return its fields."""

        def ended():
            fields = self.job(job)
            ends = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL')
            return fields['JobState'] in ends and fields

        fields = wait_until(ended, lambda: f'end of {self.job(job)}', seconds)
        assert fields['JobState'] == state, Path(fields['StdOut']).read_text()[-4000:]
        return fields

    def wait_for_restart(self, job, number):
        """Wait until a job runs for the given time again."""

        def has_state(*states):
            fields = self.job(job)
            return fields['Restarts'] == str(number) and fields['JobState'] in states

        what = partial(self.job, job)
        wait_until(lambda: has_state('PENDING', 'RUNNING'), what)
        self.run('scontrol', 'update', f'JobId={job}', 'TimeLimit=60')  # `end_soon` changed it
        wait_until(lambda: has_state('RUNNING'), what)

    def _start(self, *command, name=None):
        name = name or command[0]
        with (self.folder / f'{name}.out').open('ab') as log:
            self._daemons[name] = subprocess.Popen(
                [shutil.which(command[0], path=PATH), *map(str, command[1:])],
                stdout=log,
                stderr=log,
                cwd=self.folder,  # marks its processes
                env=self.environment,
                start_new_session=True,  # Ctrl-C stops them in order
                preexec_fn=_die_with_parent,
            )

    def _idle_nodes(self):
        nodes = self.run('sinfo', '-h', '-N', '-o', '%T', check=False).split()
        return nodes.count('idle')

    def _jobs_on(self, node):
        jobs = self.run('squeue', '-h', '-w', node, '-t', 'running', '-o', '%A').split()
        return [re.escape(job) for job in jobs]

    def _kill(self, selects):
        """Kill the processes of this cluster that are selected by command and environment."""
        for path in Path('/proc').glob('[0-9]*'):
            with suppress(OSError):
                variables = (path / 'environ').read_text(errors='replace').split('\0')
                command = (path / 'cmdline').read_text(errors='replace')
                conf = f'SLURM_CONF={self.environment["SLURM_CONF"]}'
                is_ours = conf in variables or (path / 'cwd').readlink() == self.folder
                if is_ours and int(path.name) != os.getpid() and selects(command, variables):
                    os.kill(int(path.name), signal.SIGKILL)

    def _logs(self):
        logs = [path.read_text(errors='replace') for path in self.folder.glob('*.out')]
        return f'idle nodes: {logs}'
