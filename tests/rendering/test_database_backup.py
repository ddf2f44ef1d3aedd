"""files/mariadb/database_backup.py with a real mariadbd, the real mariadb-backup, and moto's S3."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pymysql
import pytest
from moto.server import ThreadedMotoServer

from tests.servers import LOOPBACK, Database, ask, copy_database, free_port, install_database

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "files/mariadb/database_backup.py"
BUCKET, PREFIX = "backups", "prod/databases"


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """The endpoint, and a client of it."""
    port = free_port()
    server = ThreadedMotoServer(LOOPBACK, port, verbose=False)
    server.start()
    endpoint = f"http://{LOOPBACK}:{port}"
    keys: Any = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client: Any = boto3.Session(**keys).client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    yield endpoint, client
    server.stop()


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # mariadbd does not run as root
        yield install_database(Path(folder) / "installed")


@dataclass
class Node:
    """A machine with a database, as far as the program looks at it."""

    folder: Path
    database: Database
    endpoint: str
    client: Any

    @property
    def data(self) -> Path:
        return self.folder / "db/data"

    def settings(self, **changes: Any) -> None:
        config = {
            "node": "db3",
            "nodes": ["db1", "db2", "db3"],
            "bucket": BUCKET,
            "prefix": PREFIX,
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "kmsKey": None,
            "keepDays": 14,
        }
        (self.folder / "backup.json").write_text(json.dumps({**config, **changes}))

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        own = {
            "HOME": str(self.folder),  # .my.cnf leads to the socket
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}:/usr/sbin",
            "AWS_ACCESS_KEY_ID": "AKIA",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "MYCAT_HA_BACKUP_SETTINGS": str(self.folder / "backup.json"),
            "MYCAT_HA_DATA": str(self.data),
            "MYCAT_HA_RESTORE": str(self.folder / "db/restore"),
            "MYCAT_HA_BACKUP_RUN": str(self.folder / "run"),
            "MYCAT_HA_BACKUP_LOG": str(self.folder / "backup.log"),
            "MYCAT_HA_KNOWN_WITHIN": "1",
            "MYCAT_HA_GALERA_ORDER": str(self.folder / "order.json"),
        }
        argv, pipe = [sys.executable, str(PROGRAM), *words], subprocess.PIPE
        return subprocess.Popen(argv, env={**own, **environment}, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        with self.start(*words, **environment) as program:
            output, errors = program.communicate(timeout=120)
        return subprocess.CompletedProcess(words, program.returncode, output, errors)

    def succeeds(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> list[str]:
        """What a program of this node has started and left behind."""
        left = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it ends
                if f"HOME={self.folder}\0".encode() in path.read_bytes():
                    left.append((path.parent / "cmdline").read_text().replace("\0", " "))
        return left

    def listed(self) -> list[dict[str, Any]]:
        return list(json.loads(self.succeeds("list")))

    def root(self, statement: str) -> list[tuple[Any, ...]]:
        with pymysql.connect(unix_socket=str(self.folder / "db/s"), user="root", autocommit=True) as root:
            return ask(root, statement)

    def objects(self) -> set[str]:
        return {entry["Key"] for entry in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())}


@pytest.fixture
def node(installed: Path, s3: tuple[str, Any]) -> Iterator[Node]:
    endpoint, client = s3
    folder = Path(tempfile.mkdtemp())
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    folder.chmod(0o755)
    node = Node(folder, copy_database(installed, folder / "db"), endpoint, client)
    (folder / ".my.cnf").write_text(f"[client]\nsocket={folder}/db/s\nuser=root\n")
    (folder / "bin").mkdir()
    stopped = folder / "bin/systemctl"
    stopped.write_text("#!/bin/sh\necho ${MARIADB:-inactive}\n")
    stopped.chmod(0o755)
    node.settings()
    node.database.start()
    # Galera makes it, which this mariadbd does not have.
    node.root("CREATE TABLE mysql.wsrep_cluster_members (node_uuid CHAR(36) PRIMARY KEY, node_name CHAR(32))")
    node.root("INSERT INTO mysql.wsrep_cluster_members VALUES ('c', 'db3')")
    node.root("CREATE TABLE app1.t (id INT PRIMARY KEY, word VARCHAR(20))")
    node.root("INSERT INTO app1.t SELECT seq, 'kept' FROM app1.seq_1_to_1000")
    yield node
    node.database.stop()
    shutil.rmtree(folder)


def make(node: Node) -> str:
    """A backup's id."""
    before = {entry["id"] for entry in node.listed()}
    assert "complete after" in node.succeeds("run")
    [made] = {entry["id"] for entry in node.listed()} - before
    return str(made)


def test_what_was_committed_before_a_backup_is_there_after_it_was_put_back(node: Node) -> None:
    identifier = make(node)
    node.root("UPDATE app1.t SET word = 'lost'")

    node.succeeds("fetch", identifier)
    assert node.root("SELECT DISTINCT word FROM app1.t") == [("lost",)]  # nothing has happened to the data yet
    node.database.stop()
    (node.folder / "order.json").write_text("{}")
    said = node.succeeds("install", identifier)
    node.database.start()

    assert node.root("SELECT COUNT(*), MIN(word), MAX(word) FROM app1.t") == [(1000, "kept", "kept")]
    state = (node.data / "grastate.dat").read_text()
    assert "safe_to_bootstrap: 1" in state
    assert "00000000-0000" not in state
    assert not (node.folder / "order.json").exists()
    [before] = node.data.parent.glob("data.before-*")
    assert str(before) in said
    assert (before / "app1/t.ibd").exists()


def test_a_trial_says_how_many_tables_it_has_found_whole(node: Node) -> None:
    identifier = make(node)
    assert "restored and checked" in node.succeeds("test")

    [entry] = node.listed()
    assert entry["id"] == identifier
    assert entry["restored"]["problem"] == ""
    assert entry["restored"]["tables"] > 30  # MariaDB's own and app1.t
    assert not list((node.folder / "db/restore").iterdir())
    assert node.root("SELECT COUNT(*) FROM app1.t") == [(1000,)]


def test_a_backup_that_is_not_what_was_written_fails_its_trial(node: Node) -> None:
    identifier = make(node)
    key = f"{PREFIX}/{identifier}/data.xb.zst"
    stream = bytearray(node.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    stream[len(stream) // 2] ^= 0xFF
    node.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(stream))

    done = node.run("test")
    assert done.returncode != 0
    assert "cannot be restored: " in done.stderr
    assert "zstd" in node.listed()[0]["restored"]["problem"]
    assert not list((node.folder / "db/restore").iterdir())


def test_a_table_that_is_damaged_fails_the_trial(node: Node) -> None:
    """InnoDB finds a page with a wrong checksum when it reads it."""
    node.root("CREATE TABLE app2.big (id INT PRIMARY KEY, filler CHAR(200)) CHARACTER SET latin1")
    node.root("INSERT INTO app2.big SELECT seq, 'x' FROM app1.seq_1_to_5000")
    identifier = make(node)
    node.succeeds("fetch", identifier)
    prepared = node.folder / "db/restore" / identifier
    shutil.move(prepared, node.folder / "db/damaged")
    table = node.folder / "db/damaged/app2/big.ibd"
    with table.open("r+b") as file:
        file.seek(16384 * 20 + 200)
        file.write(b"\xff" * 64)
    stream = f"cd {node.folder}/db/damaged && find . -type f | sed 's,^./,,' | xargs mbstream -c"
    broken = subprocess.run(f"{stream} | zstd -q", shell=True, capture_output=True, check=True)
    node.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{identifier}/data.xb.zst", Body=broken.stdout)

    assert node.run("test").returncode != 0
    assert node.listed()[0]["restored"]["problem"]


def test_a_backup_that_breaks_off_leaves_nothing_that_looks_like_one(node: Node) -> None:
    broken = node.folder / "bin/mariadb-backup"
    broken.write_text("#!/bin/sh\nhead -c 1000000 /dev/urandom\necho 'no space' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = node.run("run")
    assert done.returncode != 0
    assert "mariadb-backup failed" in done.stderr
    assert "no space" in done.stderr
    assert node.listed() == []
    assert node.objects() == set()


@pytest.mark.parametrize("begun", ["first", "whole"])
def test_a_program_that_is_stopped_stops_what_it_has_started(node: Node, begun: str) -> None:
    """At once, and when all that it starts has begun."""
    at_once = "kill -TERM $PPID" if begun == "first" else ""
    slow = node.folder / "bin/mariadb-backup"
    slow.write_text(f"#!/bin/sh\n{at_once}\necho $$ >{node.folder}/pid\nexec sleep 600\n")
    slow.chmod(0o755)
    packing = node.folder / "bin/zstd"
    packing.write_text(f'#!/bin/sh\necho $$ >{node.folder}/packing\nexec /usr/bin/zstd "$@"\n')
    packing.chmod(0o755)
    with node.start("run") as program:
        if begun == "whole":
            while not (node.folder / "packing").exists() or not (node.folder / "pid").exists():
                assert program.poll() is None
                time.sleep(0.05)
            program.terminate()
        assert program.wait(30) != 0
    assert not node.processes()
    assert node.objects() == set()


def test_old_backups_go_and_the_newest_never_does(node: Node) -> None:
    now = datetime.now(UTC)
    old, torn, young = ((now - timedelta(days=days)).strftime("%Y-%m-%dT%H-%M-%SZ") for days in (20, 3, 5))
    for identifier in (old, young):
        for name in ("data.xb.zst", "backup.json"):
            node.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{identifier}/{name}", Body=b'{"id": "x"}')
    node.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{torn}/data.xb.zst", Body=b"half")
    node.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/of-somebody/else", Body=b"stays")
    node.settings(keepDays=14)
    node.succeeds("run")
    left = {key.removeprefix(f"{PREFIX}/").split("/")[0] for key in node.objects()}
    assert old not in left
    assert torn not in left
    assert {young, "of-somebody"} < left

    node.settings(keepDays=1)
    node.succeeds("run")
    left = {entry["id"] for entry in node.listed()}
    assert len(left) == 2  # those that were made here
    assert min(left) > young


def test_only_the_node_whose_turn_it_is_makes_one(node: Node) -> None:
    """The last of those that are in the cluster, whatever this node's own name is."""
    node.root("REPLACE INTO mysql.wsrep_cluster_members VALUES ('a', 'db1'), ('c', 'db2'), ('b', 'of a stranger')")
    node.settings(node="db1")
    assert node.succeeds("run") == "no backup here: it is db2's\n"
    assert node.succeeds("test") == "no trial here: it is db2's\n"
    assert node.objects() == set()
    node.settings(node="db2")
    make(node)


def test_a_node_whose_database_is_down_leaves_it_to_the_others(node: Node) -> None:
    """It is not in their cluster, and its own failure is told elsewhere."""
    node.database.stop()
    assert "no backup here: mariadbd: ERROR 2002" in node.succeeds("run")
    assert node.objects() == set()


def test_what_is_not_there_or_not_stopped_is_refused(node: Node) -> None:
    missing = node.run("fetch", "2020-01-01T00-00-00Z")
    assert "there is no complete backup" in missing.stderr
    assert missing.returncode != 0
    for words in (("install", "2020-01-01T00-00-00Z"), ("aside",)):
        runs = node.run(*words, MARIADB="active")
        assert "mariadb is active" in runs.stderr
        assert runs.returncode != 0
    assert (node.data / "app1/t.ibd").exists()


def test_a_bucket_that_is_not_there_is_named(node: Node) -> None:
    node.settings(bucket="elsewhere")
    done = node.run("check")
    assert done.returncode != 0
    assert "elsewhere" in done.stderr
    node.settings()
    node.succeeds("check")
    assert node.objects() == set()


def test_a_disk_that_has_no_room_is_seen_before_the_download(node: Node) -> None:
    identifier = make(node)
    about = {"id": identifier, "dataBytes": 1 << 60}
    node.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{identifier}/backup.json", Body=json.dumps(about).encode())
    done = node.run("fetch", identifier)
    assert "MiB left, and the backup needs" in done.stderr
    assert done.returncode != 0
    assert not list((node.folder / "db/restore").iterdir())
