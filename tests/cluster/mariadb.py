"""MariaDB of Debian's packages, as an unprivileged user, on a loopback port."""

from pathlib import Path

from postgresql import PASSWORD, Server


class MariaDB(Server):
    user, driver = 'mysql', 'mysql+pymysql'
    programs = Path('/usr/bin')

    @classmethod
    def is_installed(cls):
        return Path('/usr/sbin/mariadbd').exists()

    def initialize(self):
        folders = [f'--datadir={self.folder / "data"}', f'--tmpdir={self.folder}']
        install = [self.programs / 'mariadb-install-db', '--no-defaults', *folders]
        self.execute(*install, '--skip-test-db', **self.as_user())
        login = (
            f"CREATE USER mmkdml@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO mmkdml@'127.0.0.1';\n"
        )
        (self.folder / 'login.sql').write_text(login)

    def command(self):
        first = [f'--init-file={self.folder / "login.sql"}'] if self.process is None else []
        return [
            '/usr/sbin/mariadbd', '--no-defaults', f'--datadir={self.folder / "data"}',
            f'--port={self.port}', '--bind-address=127.0.0.1', f'--socket={self.folder / "socket"}',
            f'--pid-file={self.folder / "pid"}', '--skip-name-resolve', *first,
        ]  # fmt: skip

    def _client(self, *arguments):
        program = self.programs / ('mariadb-admin' if arguments == ('ping',) else 'mariadb')
        return [
            str(program), '--no-defaults', '--protocol=tcp', '-h', '127.0.0.1', '-P',
            str(self.port), '-u', 'mmkdml', f'--password={PASSWORD}', *arguments,
        ]  # fmt: skip

    def ping(self):
        return self._client('ping')

    def create(self, database):
        self.execute(*self._client('-e', f'CREATE DATABASE {database}'))
        return self.url(database)
