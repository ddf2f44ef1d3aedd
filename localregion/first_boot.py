#!/usr/bin/python3
"""Stand-in for cloud-init in the local region's image.

Does what cloud-init's EC2 data source does on a Debian AMI, as far as this project needs it: the host name, the user
``admin`` with the key pair and passwordless sudo, SSH host keys with their fingerprints on the console, and user data
(a ``#!`` script, or of ``#cloud-config`` the keys hostname, write_files and runcmd), once in the life of an instance.
"""

import os
import pwd
import subprocess
import time
import urllib.error
import urllib.request

METADATA = "http://169.254.169.254/latest/"
STATE = "/var/lib/cloud-standin"


def get(path: str) -> str | None:
    """A metadata value by IMDSv2; None if there is none."""
    request = urllib.request.Request(
        f"{METADATA}api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                token = answer.read().decode()
            wanted = urllib.request.Request(METADATA + path, headers={"X-aws-ec2-metadata-token": token})
            with urllib.request.urlopen(wanted, timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            problem: Exception = error
        except OSError as error:
            problem = error
        if time.monotonic() > deadline:
            raise SystemExit(f"first-boot: the metadata service does not answer: {problem}")
        time.sleep(0.2)


def write(path: str, content: str, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def user(key: str | None) -> None:
    try:
        pwd.getpwnam("admin")
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "admin"], check=True)
    write("/etc/sudoers.d/90-cloud-init-users", "admin ALL=(ALL) NOPASSWD:ALL\n", 0o440)
    if key:
        write("/home/admin/.ssh/authorized_keys", key.strip() + "\n", 0o600)
        subprocess.run(["chown", "-R", "admin:admin", "/home/admin/.ssh"], check=True)
        os.chmod("/home/admin/.ssh", 0o700)


def set_hostname(name: str) -> None:
    write("/etc/hostname", name + "\n")
    subprocess.run(["hostname", name], check=False)
    with open("/etc/hosts", encoding="utf-8") as hosts:
        others = [line for line in hosts if not line.startswith("127.0.1.1")]
    write("/etc/hosts", f"127.0.1.1 {name} {name.split('.', maxsplit=1)[0]}\n" + "".join(others))


def user_data(data: str) -> None:
    if data.startswith("#!"):
        write(f"{STATE}/user-data", data, 0o700)
        subprocess.run([f"{STATE}/user-data"], check=False)
    elif data.startswith("#cloud-config"):
        import yaml

        config = yaml.safe_load(data) or {}
        if "hostname" in config:
            set_hostname(config["hostname"])
        for file in config.get("write_files", []):
            write(file["path"], file.get("content", ""), int(str(file.get("permissions", "0644")), 8))
        for command in config.get("runcmd", []):
            subprocess.run(command, shell=isinstance(command, str), check=False)


def main() -> None:
    instance = get("meta-data/instance-id")
    done = f"{STATE}/{instance}"
    if os.path.exists(done):
        return
    set_hostname((get("meta-data/local-hostname") or f"{instance}").split(".")[0])
    user(get("meta-data/public-keys/0/openssh-key"))
    subprocess.run(["ssh-keygen", "-A"], check=True, stdout=subprocess.DEVNULL)
    print("-----BEGIN SSH HOST KEY FINGERPRINTS-----", flush=True)
    subprocess.run("for k in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -l -f $k; done", shell=True, check=False)
    print("-----END SSH HOST KEY FINGERPRINTS-----", flush=True)
    if data := get("user-data"):
        user_data(data)
    write(done, "")


if __name__ == "__main__":
    main()
