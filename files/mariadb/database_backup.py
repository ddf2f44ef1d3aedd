#!/usr/bin/python3
"""Backups of the databases: mariadb-backup's stream, compressed, in S3, and back.

    database-backup run          make one, on the node whose turn it is (or do nothing on the others)
    database-backup test         on the same node: restore the newest one beside the database, and have it checked
    database-backup check        write, read, list and remove there; what is wrong with the permissions shows now
    database-backup list [PREFIX]  what there is, newest first, as JSON
    database-backup newest       the newest one, the last one that was tried, and from which age on that is wrong
    database-backup room BYTES   whether there is room beside the data for so many
    database-backup fetch ID [PREFIX]   download one and prepare it, beside the database, which goes on
    database-backup install ID   with mariadb stopped: put what `fetch` has prepared in the place of the data
    database-backup aside        with mariadb stopped: move the data away, so that the node gets a copy of another's

A backup is a folder ``PREFIX/ID`` of the bucket: ``data.xb.zst``, and ``backup.json``, which is written last: without
it there is no backup. ``restored.json`` says how the last trial with it went. The credentials are those of the
instance's role. Run as root; systemd's timers run the first two.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

SETTINGS = Path(os.environ.get("MYCAT_HA_BACKUP_SETTINGS", "/etc/mycat-ha/backup.json"))
DATA = Path(os.environ.get("MYCAT_HA_DATA", "/var/lib/mysql"))
#: Beside the data, so that what was prepared there takes their place by a rename.
WORK = Path(os.environ.get("MYCAT_HA_RESTORE", "/var/lib/mycat-ha-restore"))
RUN = Path(os.environ.get("MYCAT_HA_BACKUP_RUN", "/run/mycat-ha-backup"))
LOG = Path(os.environ.get("MYCAT_HA_BACKUP_LOG", "/var/log/mycat-ha/backup.log"))
ORDER = Path(os.environ.get("MYCAT_HA_GALERA_ORDER", "/var/lib/mycat-ha-galera/order.json"))

#: Of backups and of what was moved aside.
STAMP = "%Y-%m-%dT%H-%M-%SZ"
STREAM, DONE, RESTORED = "data.xb.zst", "backup.json", "restored.json"
SYNCED_WITHIN = 600.0  # seconds that a node which is catching up has, before a backup
STARTS_WITHIN = 300.0  # seconds that a mariadbd has to start with what was restored
#: Seconds until a role and its policies count.
KNOWN_WITHIN = float(os.environ.get("MYCAT_HA_KNOWN_WITHIN", "120"))
#: Bytes of a part of an upload. S3 takes 10,000 parts (S3 User Guide, "Amazon S3 multipart upload limits").
PART, PARTS = 16 << 20, 9000
#: What was begun and not completed is removed after this time.
TORN = timedelta(days=2)
#: Room that a copy needs, in proportion to the size of the data that were copied.
ROOM = 1.2


class FailedError(Exception):
    """What went wrong, and what it means."""


def settings() -> dict[str, Any]:
    return dict(json.loads(SETTINGS.read_text()))


class Bucket:
    """The backups of one prefix."""

    def __init__(self, config: dict[str, Any], prefix: str = "") -> None:
        self._name, self._prefix = config["bucket"], (prefix or config["prefix"]).strip("/")
        self._encryption = {}
        if config["kmsKey"]:
            self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": config["kmsKey"]}
        self._s3 = boto3.client(
            "s3",
            region_name=config["region"],
            endpoint_url=config["endpoint"] or None,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"total_max_attempts": 6, "mode": "standard"},
                # A bucket's name is no part of another endpoint's certificate.
                s3={"addressing_style": "path" if config["endpoint"] else "auto"},
            ),
        )

    def place(self, key: str) -> str:
        return f"s3://{self._name}/{self._prefix}/{key}"

    def found(self) -> dict[str, set[str]]:
        """Of all that was begun, newest first: which documents there are.

        By a list: to who may list a part of the bucket only, S3 does not say that an object is missing (GetObject,
        "Permissions").
        """
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=f"{self._prefix}/")
        found: dict[str, set[str]] = {}
        for page in pages:
            for entry in page.get("Contents", ()):
                identifier, _, name = entry["Key"].removeprefix(f"{self._prefix}/").partition("/")
                if begun(identifier):
                    found.setdefault(identifier, set()).add(name)
        return dict(sorted(found.items(), reverse=True))

    def read(self, key: str) -> dict[str, Any]:
        """A JSON document that is there."""
        return dict(json.loads(self._s3.get_object(Bucket=self._name, Key=f"{self._prefix}/{key}")["Body"].read()))

    def write(self, key: str, document: dict[str, Any]) -> None:
        body = json.dumps(document, indent=2).encode()
        self._s3.put_object(Bucket=self._name, Key=f"{self._prefix}/{key}", Body=body, **self._encryption)

    def upload(self, key: str, stream: Any, most: int) -> int:
        """The number of bytes, of ``most`` at the most, that came out of ``stream``."""
        path, part = f"{self._prefix}/{key}", max(PART, most // PARTS)
        self._s3.upload_fileobj(stream, self._name, path, ExtraArgs=self._encryption, Config=transfer(part))
        return int(self._s3.head_object(Bucket=self._name, Key=path)["ContentLength"])

    def download(self, key: str, stream: Any) -> None:
        self._s3.download_fileobj(self._name, f"{self._prefix}/{key}", stream, Config=transfer(PART))

    def remove(self, identifier: str) -> None:
        """What makes it a backup goes first."""
        for name in (DONE, STREAM, RESTORED):
            self._s3.delete_object(Bucket=self._name, Key=f"{self._prefix}/{identifier}/{name}")


def transfer(part: int) -> TransferConfig:
    """In parts of so many bytes, of which a few are in memory; ten of them are boto3's default."""
    config = TransferConfig(multipart_chunksize=part, max_concurrency=2)
    config.max_in_memory_upload_chunks = config.max_in_memory_download_chunks = 2
    return config


def begun(identifier: str) -> datetime | None:
    """When that backup was begun; None if the name is not a backup's."""
    with suppress(ValueError):
        return datetime.strptime(identifier, STAMP).replace(tzinfo=UTC)
    return None


def stamp() -> str:
    return datetime.now(UTC).strftime(STAMP)


# --- The database ---


def sql(statement: str) -> list[str]:
    """Its rows. Raises FailedError."""
    done = subprocess.run(
        ["mariadb", "--batch", "--skip-column-names", "--execute", f"SET SESSION wsrep_sync_wait = 0; {statement}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FailedError(f"mariadbd: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.splitlines()


def here(config: dict[str, Any], what: str) -> bool:
    """Whether this node does it: of those that are in the cluster now the last one, as the first is the one that is
    written to. All nodes of a cluster see the same."""
    try:
        members = set(sql("SELECT node_name FROM mysql.wsrep_cluster_members"))
    except FailedError as error:
        print(f"no {what} here: {error}", flush=True)
        return False
    node = next((node for node in reversed(config["nodes"]) if node in members), config["node"])
    if node != config["node"]:
        print(f"no {what} here: it is {node}'s", flush=True)
    return bool(node == config["node"])


def wait_until_synced() -> None:
    """It is not desynced for the backup, which would take it out of rotation: at the lowest priority for processor and
    disk, it keeps up with the others. Raises FailedError.
    """
    if sql("SELECT @@GLOBAL.wsrep_on") == ["0"]:
        return
    for _ in range(int(SYNCED_WITHIN)):
        state = "".join(sql("SHOW STATUS LIKE 'wsrep_local_state_comment'")).rpartition("\t")[2]
        if state == "Synced":
            return
        time.sleep(1)
    raise FailedError(f"this node is not synced ({state}), so it makes no backup")


def after_clients() -> None:
    """What serves them gets processor and disk first."""
    os.nice(10)
    subprocess.run(["ionice", "--class=idle", f"--pid={os.getpid()}"], check=False)


# --- Making one ---


def run() -> None:
    config = settings()
    with alone():
        if not here(config, "backup"):
            return
        bucket, identifier, since = Bucket(config), stamp(), time.monotonic()
        size = size_of(DATA)
        print(f"{bucket.place(identifier)}: from {config['node']}, {size >> 20} MiB of data", flush=True)
        wait_until_synced()
        after_clients()
        stored = upload(bucket, identifier, size)
        took = round(time.monotonic() - since, 1)
        [version] = sql("SELECT VERSION()")
        about = {"id": identifier, "node": config["node"], "version": version, "seconds": took}
        bucket.write(f"{identifier}/{DONE}", {**about, "bytes": stored, "dataBytes": size})
        print(f"{bucket.place(identifier)}: complete after {took:g} s, {stored >> 20} MiB", flush=True)
        prune(bucket, identifier, timedelta(days=config["keepDays"]))


def upload(bucket: Bucket, identifier: str, size: int) -> int:
    """What it has in S3, in bytes. Raises FailedError, and leaves nothing there then."""
    scratch = RUN / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    LOG.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    copy = ["mariadb-backup", "--backup", "--stream=xbstream", f"--target-dir={scratch}", "--user=root"]
    try:
        with LOG.open("w") as log, ended():
            source = start(copy, stdout=subprocess.PIPE, stderr=log)
            packed = start(["zstd", "--quiet", "-T1"], stdin=source.stdout, stdout=subprocess.PIPE, stderr=log)
            assert source.stdout  # zstd has it: mariadb-backup has to notice when zstd ends
            source.stdout.close()
            stored = bucket.upload(f"{identifier}/{STREAM}", packed.stdout, size)
            succeeded(source, packed)
    except BaseException:  # a stop as well
        with suppress(BotoCoreError, ClientError):  # what went wrong before says more
            bucket.remove(identifier)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return stored


def prune(bucket: Bucket, newest: str, keep: timedelta) -> None:
    """Those that are older than ``keep``, and what was not completed; never the one that was just made."""
    now = datetime.now(UTC)
    for identifier, names in bucket.found().items():
        age = now - (begun(identifier) or now)
        if identifier != newest and (age > keep or (age > TORN and DONE not in names)):
            bucket.remove(identifier)
            print(f"{bucket.place(identifier)}: removed, {age.days} days old", flush=True)


# --- Getting one back ---


def fetch(bucket: Bucket, identifier: str, target: Path) -> None:
    """Into ``target``, prepared, so that a mariadbd can start with it. Raises FailedError."""
    if DONE not in bucket.found().get(identifier, ()):
        raise FailedError(f"{bucket.place(identifier)}: there is no complete backup")
    about = bucket.read(f"{identifier}/{DONE}")
    staged = target.with_name(f".{target.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700, parents=True)
    try:
        room(staged.parent, about["dataBytes"])
        unpack(bucket, identifier, staged)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def unpack(bucket: Bucket, identifier: str, folder: Path) -> None:
    LOG.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with LOG.open("w") as log, ended():
        packed = start(["zstd", "--quiet", "--decompress"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        extract = start(["mbstream", "--extract", f"--directory={folder}"], stdin=packed.stdout, stderr=log)
        assert packed.stdin
        assert packed.stdout
        packed.stdout.close()
        with suppress(BrokenPipeError):  # then one of them has failed
            bucket.download(f"{identifier}/{STREAM}", packed.stdin)
            packed.stdin.close()
        succeeded(packed, extract)
        succeeded(start(["mariadb-backup", "--prepare", f"--target-dir={folder}"], stderr=log))
    for path in (folder, *folder.rglob("*")):
        own_as_data(path)


def test() -> None:
    """What came of it is written beside the backup. Raises FailedError if it cannot be restored."""
    config = settings()
    with alone():
        if not here(config, "trial"):
            return
        bucket, since = Bucket(config), time.monotonic()
        newest = next((identifier for identifier, names in bucket.found().items() if DONE in names), None)
        if newest is None:
            raise FailedError(f"{bucket.place('')}: there is no complete backup")
        after_clients()
        target = WORK / "trial"
        shutil.rmtree(target, ignore_errors=True)
        tables, problem = 0, ""
        try:
            fetch(bucket, newest, target)
            tables = checked(target)
        except FailedError as error:
            problem = str(error)
        finally:
            shutil.rmtree(target, ignore_errors=True)
        took = round(time.monotonic() - since, 1)
        about = {"at": stamp(), "node": config["node"], "seconds": took, "tables": tables, "problem": problem}
        bucket.write(f"{newest}/{RESTORED}", about)
        if problem:
            raise FailedError(f"{bucket.place(newest)} cannot be restored: {problem}")
        print(f"{bucket.place(newest)}: restored and checked, {tables} tables, after {took:g} s", flush=True)


def checked(target: Path) -> int:
    """How many tables there are, all of them whole: a mariadbd of its own starts there, and looks at each.

    Raises FailedError.
    """
    # Of the user that mariadbd becomes; not below the data, whose path may be too long for a socket.
    home = RUN / "trial"
    home.mkdir(mode=0o700, exist_ok=True)
    own_as_data(home)
    socket = home / "mysqld.sock"
    with LOG.open("a") as log, ended():
        server = start(
            [
                "mariadbd",
                # What InnoDB's files need to be read, as mariadb-backup has noted it; nothing of this node's own.
                f"--defaults-file={target}/backup-my.cnf",
                f"--datadir={target}",
                f"--socket={socket}",
                f"--pid-file={home}/mysqld.pid",
                f"--user={DATA.owner()}",
                f"--tmpdir={home}",
                "--skip-networking",
                "--skip-log-bin",
                "--innodb-buffer-pool-size=128M",
            ],
            stderr=log,
        )
        until = time.monotonic() + STARTS_WITHIN
        while subprocess.run(
            ["mariadb-admin", f"--socket={socket}", "ping"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode:
            if server.poll() is not None or time.monotonic() > until:
                raise FailedError(f"mariadbd does not start with it; the end of {LOG}:\n{last_lines()}")
            time.sleep(0.5)
        looked = subprocess.run(
            ["mariadb-check", f"--socket={socket}", "--all-databases", "--check"],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = looked.stdout.splitlines()
        wrong = [line for line in lines if line.lower().startswith(("error", "warning"))]
        if looked.returncode or wrong:
            raise FailedError(f"mariadb-check: {'; '.join(wrong) or looked.stderr.strip()}")
        return sum(line.split()[-1] == "OK" for line in lines if line.split())


def install(identifier: str) -> None:
    """The data that were fetched become this node's, of a new cluster that this node is to form: whoever has been in
    another one gets a copy of everything."""
    stopped()
    ready = WORK / identifier
    if not ready.is_dir():
        raise FailedError(f"{ready} is not there: `fetch` comes first")
    state = ready / "grastate.dat"
    state.write_text(f"# GALERA saved state\nversion: 2.1\nuuid:    {uuid.uuid4()}\nseqno:   0\nsafe_to_bootstrap: 1\n")
    state.chmod(0o600)
    own_as_data(state)
    ready.chmod(0o755)
    os.sync()
    aside()
    DATA.rmdir()
    ready.rename(DATA)


def aside() -> None:
    stopped()
    # It belongs to the history that ends here.
    ORDER.unlink(missing_ok=True)
    if not any(DATA.iterdir()):
        return
    before = DATA.with_name(f"{DATA.name}.before-{stamp()}")
    owner = DATA.stat()
    DATA.rename(before)
    print(f"the data of before are in {before}", flush=True)
    DATA.mkdir(mode=0o755)
    os.chown(DATA, owner.st_uid, owner.st_gid)


def stopped() -> None:
    """Raises FailedError if mariadbd runs, or is about to."""
    asked = ["systemctl", "show", "--property=ActiveState", "--value", "mariadb"]
    state = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    if state not in {"inactive", "failed"}:
        raise FailedError(f"mariadb is {state}: `systemctl stop mariadb` comes first")


# --- What there is ---


def listed(bucket: Bucket) -> list[dict[str, Any]]:
    return [
        {
            **bucket.read(f"{identifier}/{DONE}"),
            "restored": bucket.read(f"{identifier}/{RESTORED}") if RESTORED in names else None,
        }
        for identifier, names in bucket.found().items()
        if DONE in names
    ]


def newest() -> dict[str, Any]:
    config = settings()
    bucket = Bucket(config)
    complete = {identifier: names for identifier, names in bucket.found().items() if DONE in names}
    tried = next((identifier for identifier, names in complete.items() if RESTORED in names), None)
    return {
        "newest": bucket.read(f"{next(iter(complete))}/{DONE}") if complete else None,
        "tried": {"id": tried, **bucket.read(f"{tried}/{RESTORED}")} if tried else None,
        "alarmHours": config["alarmHours"],
    }


def room(folder: Path, size: int) -> None:
    """Raises FailedError if there is none for a copy of so many bytes of data."""
    free, needed = shutil.disk_usage(folder).free, int(size * ROOM)
    if free < needed:
        raise FailedError(f"{folder} has {free >> 20} MiB left, and the backup needs {needed >> 20} MiB")


def check() -> None:
    """Raises what S3 answers for two minutes: a role that is new is not known everywhere at once."""
    until = time.monotonic() + KNOWN_WITHIN
    while True:
        try:
            return write_and_read()
        except (BotoCoreError, ClientError) as error:
            missing = isinstance(error, ClientError) and error.response["Error"]["Code"] == "NoSuchBucket"
            if missing or time.monotonic() > until:
                raise
        time.sleep(3)


def write_and_read() -> None:
    config = settings()
    bucket, key = Bucket(config), f"check-{config['node']}"
    bucket.write(f"{key}/{DONE}", {"id": key})
    if bucket.read(f"{key}/{DONE}") != {"id": key}:
        raise FailedError(f"{bucket.place(key)}: another document is read than was written")
    bucket.found()
    bucket.remove(key)


# --- Processes ---


@contextmanager
def alone() -> Iterator[None]:
    """One at a time on this machine."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


#: What this program has started and not waited for.
RUNNING: "list[subprocess.Popen[bytes]]" = []


def start(command: list[str], **files: Any) -> "subprocess.Popen[bytes]":
    """In ``ended()``. A stop that comes meanwhile waits until there is something that it can end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        # No threads run here: those of a transfer end with it.
        RUNNING.append(subprocess.Popen(command, preexec_fn=heed_stops, **files))  # noqa: PLW1509
    finally:
        heed_stops()
    return RUNNING[-1]


def heed_stops() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextmanager
def ended() -> Iterator[None]:
    """Whatever happens, nothing of what was started is left behind."""
    RUNNING.clear()
    try:
        yield
    finally:
        for process in RUNNING:
            process.terminate()
        for process in RUNNING:
            process.wait()


def succeeded(*processes: "subprocess.Popen[bytes]") -> None:
    """Waits for them. Raises FailedError if one has failed."""
    failed = [process.args[0] for process in processes if process.wait() != 0]  # type: ignore[index]
    if failed:
        raise FailedError(f"{' and '.join(map(str, failed))} failed; the end of {LOG}:\n{last_lines()}")


def stop(*_: object) -> None:
    """On a signal: undo what was begun. An upload reads to the end of its pipe first, so the other end goes now."""
    for process in RUNNING:
        process.terminate()
    sys.exit("stopped")


def own_as_data(path: Path) -> None:
    """As mariadbd needs it."""
    owner = DATA.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def last_lines() -> str:
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-5:])


def size_of(folder: Path) -> int:
    """In bytes on the disk; files come and go meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.lstat().st_blocks * 512
    return size


def main(words: list[str]) -> None:
    signal.signal(signal.SIGTERM, stop)
    try:
        match words:
            case ["run"]:
                run()
            case ["test"]:
                test()
            case ["check"]:
                check()
            case ["list", *prefix]:
                print(json.dumps(listed(Bucket(settings(), *prefix))))
            case ["newest"]:
                print(json.dumps(newest()))
            case ["room", size]:
                room(DATA.parent, int(size))
            case ["fetch", identifier, *prefix]:
                with alone():
                    if not (WORK / identifier).is_dir():
                        fetch(Bucket(settings(), *prefix), identifier, WORK / identifier)
            case ["install", identifier]:
                install(identifier)
            case ["aside"]:
                aside()
            case _:
                sys.exit(__doc__)
    except FailedError as error:
        sys.exit(str(error))
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"S3, for {settings()['bucket']}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
