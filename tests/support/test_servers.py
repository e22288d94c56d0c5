"""The servers that other tests lean on: S3 is real, and each fault of the proxy is what it says."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError, ResponseStreamingError

from tests.support.servers import Fault, Request, S3Server, faulty_proxy, s3_server

BODY = bytes(range(256)) * 2000
OBJECT = {"Bucket": "bucket", "Key": "folder/one.bin"}


def connect(server: S3Server, endpoint: str = ""):
    config = Config(retries={"total_max_attempts": 1}, read_timeout=1, request_checksum_calculation="when_required")
    keys = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret}
    return boto3.client("s3", endpoint_url=endpoint or server.endpoint, region_name="us-east-1", config=config, **keys)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with s3_server(folder) as server:
        connect(server).put_object(**OBJECT, Body=BODY)
        assert (folder / "bucket" / "folder" / "one.bin").read_bytes() == BODY
        yield server


def test_wrong_secret_is_refused(server: S3Server) -> None:
    with pytest.raises(ClientError):
        connect(server._replace(secret="wrong")).get_object(**OBJECT)


def test_through_the_proxy_as_without(server: S3Server) -> None:
    with faulty_proxy(server.endpoint) as proxy:
        client = connect(server, proxy.endpoint)
        assert client.get_object(**OBJECT)["Body"].read() == BODY
        assert client.head_object(**OBJECT)["ContentLength"] == len(BODY)
        client.put_object(Bucket="bucket", Key="two", Body=b"two")
        assert [(r.method, r.sent) for r in proxy.requests] == [("GET", len(BODY)), ("HEAD", 0), ("PUT", 0)]
    assert connect(server).get_object(Bucket="bucket", Key="two")["Body"].read() == b"two"


@pytest.mark.parametrize(
    ("fault", "raised", "says"),
    [
        ("reset", ResponseStreamingError, "ConnectionResetError"),
        ("truncate", ResponseStreamingError, "IncompleteRead"),
        ("hang", ReadTimeoutError, "timeout"),
        ("503", ClientError, "SlowDown"),
        ("refuse", ConnectionClosedError, "before we received"),
    ],
)
def test_faults_that_a_client_sees(server: S3Server, fault: Fault, raised: type[Exception], says: str) -> None:
    with faulty_proxy(server.endpoint, lambda request: fault) as proxy, pytest.raises(raised, match=says):
        connect(server, proxy.endpoint).get_object(**OBJECT)["Body"].read()


def test_flip_is_one_wrong_bit_that_no_client_sees(server: S3Server) -> None:
    def first(request: Request) -> Fault:
        return "" if request.nth else "flip"

    with faulty_proxy(server.endpoint, first) as proxy:
        client = connect(server, proxy.endpoint)
        got = client.get_object(**OBJECT)["Body"].read()
        assert sum(a != b for a, b in zip(got, BODY, strict=True)) == 1
        assert client.get_object(**OBJECT)["Body"].read() == BODY
