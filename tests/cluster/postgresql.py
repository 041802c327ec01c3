"""PostgreSQL of Debian's packages, as an unprivileged user, on a loopback port."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PASSWORD = 'canary-7f3a'  # must not occur in any output


def free_port():
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


class Server:
    """A server in a temporary folder.

    Subclasses define ``user``, ``driver``, ``ping`` and ``command``.
    """

    def __init__(self, folder):
        self.folder, self.port = Path(folder), free_port()
        self.process = None
        self.folder.mkdir(parents=True)
        if os.getuid() == 0:  # the servers refuse to run as root
            shutil.chown(self.folder, self.user, self.user)
            for parent in self.folder.parents:
                with suppress(OSError):
                    parent.chmod(parent.stat().st_mode | 0o11)
        self.initialize()
        self.start()

    def as_user(self):
        """Keyword arguments that start a process as the user of the server."""
        if os.getuid() != 0:
            return {}
        user = pwd.getpwnam(self.user)
        return dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd=self.folder)

    def execute(self, *command, **kwargs):
        subprocess.run([*map(str, command)], check=True, capture_output=True, **kwargs)

    def url(self, database='suite', password=PASSWORD, query=''):
        login = f'mmkdml:{password}' if password else 'mmkdml'
        return f'{self.driver}://{login}@127.0.0.1:{self.port}/{database}{query}'

    def start(self):
        with (self.folder / 'server.log').open('ab') as log:
            self.process = subprocess.Popen(
                [*map(str, self.command())], stdout=log, stderr=log, start_new_session=True,
                **self.as_user(),
            )  # fmt: skip
        end = time.monotonic() + 120
        while subprocess.run(self.ping(), capture_output=True, check=False).returncode:
            assert self.process.poll() is None, (self.folder / 'server.log').read_text()
            assert time.monotonic() < end
            time.sleep(0.1)

    def stop(self):
        """Stop without waiting for clients."""
        self.resume()
        self.process.send_signal(signal.SIGINT if self.user == 'postgres' else signal.SIGTERM)
        self.process.wait(60)

    def restart(self, seconds):
        self.stop()
        time.sleep(seconds)
        self.start()

    def kill(self):
        self.process.kill()
        self.process.wait(60)

    def crash(self, seconds):
        """Kill the server, and start it again some seconds later, which recovers its files."""
        self.kill()
        time.sleep(seconds)
        self.start()

    def pause(self):
        """Stop all processes of the server, which keep their connections and do not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self):
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        children = subprocess.run(
            ['pgrep', '-P', str(self.process.pid)], stdout=subprocess.PIPE, check=False
        )
        for process in [self.process.pid, *map(int, children.stdout.split())]:
            with suppress(ProcessLookupError):
                os.kill(process, number)


class PostgreSQL(Server):
    user, driver = 'postgres', 'postgresql+psycopg'
    programs = max(Path('/usr/lib/postgresql').glob('*/bin'), default=Path('/nonexistent'))

    @classmethod
    def is_installed(cls):
        return (cls.programs / 'postgres').exists()

    def initialize(self):
        initdb = [self.programs / 'initdb', '-D', self.folder / 'data', '-A', 'scram-sha-256']
        secret = self.folder / 'secret'
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self.execute(*initdb, '-U', 'mmkdml', '--pwfile', secret, **self.as_user())

    def command(self):
        sockets = ['-k', self.folder, '-c', 'listen_addresses=127.0.0.1']
        return [self.programs / 'postgres', '-D', self.folder / 'data', '-p', self.port, *sockets]

    def ping(self):
        return [self.programs / 'pg_isready', '-q', '-h', '127.0.0.1', '-p', str(self.port)]

    def create(self, database):
        self.execute(
            self.programs / 'createdb', '-h', '127.0.0.1', '-p', self.port, '-U', 'mmkdml',
            database,
            env={**os.environ, 'PGPASSWORD': PASSWORD},
        )  # fmt: skip
        return self.url(database)
