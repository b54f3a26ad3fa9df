"""An object store with the S3 API. boto3 signs, retries, and finds credentials as usual."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from smtpproxy.shipping.targets import TargetUnavailable, TargetWrong, blocks

_LEAST_PART = 5 * 1024 * 1024
"""The least octets of a part of an object that is not its last (S3's own limit)."""
_PART = 16 * 1024 * 1024


class S3Target:
    """A `FileTarget`: objects PREFIX/RELAY/NAME, which are replaced atomically."""

    def __init__(self, bucket: str, prefix: str, relay: str) -> None:
        """Raises TargetWrong if boto3 is not installed, or finds no region or credentials."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise TargetWrong(
                "s3:// needs boto3: install smtpproxy[s3], or boto3 beside smtpproxy"
            ) from error
        config = Config(
            connect_timeout=10, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"}
        )
        try:
            self._client: Any = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise TargetWrong(f"s3://{bucket}: {error}") from error
        self._bucket = bucket
        self._prefix = "".join(f"{part}/" for part in (prefix.strip("/"), relay) if part)

    def sizes(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        with _asking():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for one in page.get("Contents", ()):
                    found[one["Key"].removeprefix(self._prefix)] = one["Size"]
        return found

    def append(self, name: str, source: BinaryIO, begin: int, end: int) -> None:
        """Make a new object of the current one and the new octets, as S3 cannot append."""
        if begin < _LEAST_PART:
            self.put(name, source, end)
            return
        self._in_parts(name, lambda upload: self._after(name, upload, source, begin, end))

    def put(self, name: str, source: BinaryIO, end: int) -> None:
        if end <= _PART:
            body = b"".join(blocks(source, 0, end))
            with _asking():
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=body)
            return
        self._in_parts(name, lambda upload: self._parts(name, upload, 1, source, 0, end))

    def remove(self, name: str) -> None:
        with _asking():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def close(self) -> None:
        self._client.close()

    def _in_parts(self, name: str, upload: Callable[[str], Iterator[Mapping[str, Any]]]) -> None:
        place = {"Bucket": self._bucket, "Key": self._prefix + name}
        with _asking():
            id = self._client.create_multipart_upload(**place)["UploadId"]
            try:
                parts = list(upload(id))
                self._client.complete_multipart_upload(
                    **place, UploadId=id, MultipartUpload={"Parts": parts}
                )
            except BaseException:
                self._client.abort_multipart_upload(**place, UploadId=id)
                raise

    def _after(
        self, name: str, upload: str, source: BinaryIO, begin: int, end: int
    ) -> Iterator[Mapping[str, Any]]:
        place = {"Bucket": self._bucket, "Key": self._prefix + name}
        copied = self._client.upload_part_copy(
            **place, UploadId=upload, PartNumber=1, CopySource=place,
            CopySourceRange=f"bytes=0-{begin - 1}",
        )  # fmt: skip
        yield {"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}
        yield from self._parts(name, upload, 2, source, begin, end)

    def _parts(
        self, name: str, upload: str, number: int, source: BinaryIO, begin: int, end: int
    ) -> Iterator[Mapping[str, Any]]:
        while begin < end:
            until = min(begin + _PART, end)
            done = self._client.upload_part(
                Bucket=self._bucket, Key=self._prefix + name, UploadId=upload,
                PartNumber=number, Body=b"".join(blocks(source, begin, until)),
            )  # fmt: skip
            yield {"PartNumber": number, "ETag": done["ETag"]}
            begin, number = until, number + 1


@contextmanager
def _asking() -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise TargetUnavailable(f"the object store: {error}") from error
