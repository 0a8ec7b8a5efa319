"""What programs do with the Engine API: containers, logs, exec, archives, events, a swarm."""

import io
import tarfile
import time
import urllib.request

import docker


def until(what, fact):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        value = fact()
        if value:
            return value
        time.sleep(0.05)
    raise SystemExit(f"not in time: {what}")


client = docker.from_env(version="auto")
assert client.ping()
assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
try:
    client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 3"], remove=True)
    raise SystemExit("a failure was not told")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and error.stderr == b"no\n", error

started = time.time()
box = client.containers.run(
    "busybox",
    ["sh", "-c", "echo one; echo two >&2; sleep 1000"],
    name="box",
    detach=True,
    labels={"a": "b"},
    environment={"X": "1"},
    mem_limit="64m",
)
assert [found.id for found in client.containers.list(filters={"label": "a=b"})] == [box.id]
until("the log", lambda: box.logs() == b"one\ntwo\n")
assert box.logs(stdout=False) == b"two\n"
told = box.exec_run(["sh", "-c", "echo $X; exit 4"], demux=True)
assert told == (4, (b"1\n", None)), told
assert box.attrs["HostConfig"]["Memory"] == 64 * 1024 * 1024

packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as tar:
    entry = tarfile.TarInfo("note")
    entry.size = 5
    tar.addfile(entry, io.BytesIO(b"hello"))
assert box.put_archive("/tmp", packed.getvalue())
chunks, stat = box.get_archive("/tmp/note")
assert stat["size"] == 5
with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
    assert tar.extractfile("note").read() == b"hello"

stats = box.stats(stream=False)
assert 0 < stats["memory_stats"]["usage"] <= 64 * 1024 * 1024
assert any("sleep 1000" in " ".join(row) for row in box.top()["Processes"])
box.stop(timeout=0)
assert box.wait()["StatusCode"] == 137
box.remove()
names = [event["Action"] for event in client.events(since=int(started), until=int(time.time()) + 1, decode=True)]
for action in ["create", "start", "die", "destroy"]:
    assert action in names, names

client.swarm.init(advertise_addr="10.99.0.1")
secret = client.secrets.create(name="word", data=b"open")
service = client.services.create(
    "whoami",
    name="web",
    mode=docker.types.ServiceMode("replicated", replicas=2),
    endpoint_spec=docker.types.EndpointSpec(ports={8086: 80}),
)
until("two tasks", lambda: sum(task["Status"]["State"] == "running" for task in service.tasks()) == 2)


def answer():
    try:
        lines = urllib.request.urlopen("http://127.0.0.1:8086/", timeout=5).read().splitlines()
        return next(line for line in lines if line.startswith(b"Hostname: "))
    except OSError:
        return None


until("two who answer", lambda: len({answer() for _ in range(4)} - {None}) == 2)
service.reload()
assert service.scale(1)
until("one task", lambda: sum(task["Status"]["State"] == "running" for task in service.tasks()) == 1)
assert client.nodes.list()[0].attrs["ManagerStatus"]["Leader"]
service.remove()
secret.remove()
assert client.swarm.leave(force=True)
print("all is well")
