"""Whether the object storage that a run will use can be used: tried, not assumed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axon.errors import AxonError
from axon.tracking.client import client, tracking_errors


def check_dvc_remote(repo: str) -> str | AxonError:
    """See that the default DVC remote of the checkout ``repo`` can be read, where it is a folder or on S3; returns what
    it is, or a warning: without it DVC's cache may still have the data.

    Raises:
        AxonError: ``S3_UNREADABLE``.
    """
    dvc_dir = Path(repo or ".") / ".dvc"
    if not dvc_dir.is_dir():
        # The revision has been resolved, or reported, before; its data may come from DVC's cache.
        return "no checkout with a remote here"
    from dvc.config import Config

    config = Config(str(dvc_dir))
    remote = config.get("remote", {}).get(config.get("core", {}).get("remote"), {})
    url = str(remote.get("url", ""))  # Of a folder the path, as DVC takes it from the folder of its configuration.
    if url.startswith("s3://"):
        check_s3(url, write=False, endpoint=remote.get("endpointurl"))
        return "on S3, can be read"
    if not url:
        return "no default remote"
    if "://" in url:
        kind = f"the default DVC remote is {url.partition('://')[0]}://..., which is not tried"
        return AxonError("DVC_REMOTE_UNTRIED", kind, "see that `dvc status --cloud` answers")
    if not Path(url).is_dir():
        fix = "make or mount it (`make data` and `dvc push` make it), or correct the remote"
        return AxonError("DVC_REMOTE_MISSING", "the folder of the default DVC remote is not there", fix)
    return "a folder of this machine"


def check_mlflow_artifacts(tracking_uri: str, experiment: str) -> None:
    """See that the experiment's artifacts can be read and written, where steps write them to S3 themselves.

    Raises:
        AxonError: ``S3_UNREADABLE``, ``S3_UNWRITABLE`` or ``TRACKING_FAILED``.
    """
    if not tracking_uri.startswith("http"):
        return
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        found = mlflow.get_experiment_by_name(experiment) or mlflow.get_experiment("0")
    if found.artifact_location.startswith("s3://"):
        check_s3(found.artifact_location, write=True, endpoint=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))


def check_s3(url: str, write: bool, endpoint: str | None = None) -> None:
    """List ``url``; with ``write``, also put a small object there and delete it.

    Args:
        url: ``s3://bucket/prefix``.
        write: Whether it must be writable.
        endpoint: S3 service; None for ``AWS_ENDPOINT_URL`` or AWS.

    Raises:
        AxonError: ``S3_UNREADABLE`` or ``S3_UNWRITABLE``.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    session = boto3.Session()  # Not the default one, which keeps the first credentials that it was given.
    s3 = session.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 3}),
    )
    try:
        s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except (BotoCoreError, ClientError, ValueError) as error:
        fix = "check the bucket, AWS_ENDPOINT_URL and the credentials in the secret"
        raise AxonError("S3_UNREADABLE", f"{url} cannot be listed: {_reason(error)}", fix) from error
    if write:
        key = f"{prefix}/.axon-{uuid.uuid4().hex}".lstrip("/")
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=b"axon")
            s3.delete_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            fix = "allow the credentials in the secret to put and delete objects there"
            raise AxonError("S3_UNWRITABLE", f"{url} cannot be written: {_reason(error)}", fix) from error


def _reason(error: Any) -> str:
    """The first line; botocore's messages name no credentials."""
    return str(error).splitlines()[0]
