"""The region's S3, as programs with boto3 use it: objects, signatures, what a role may do with which prefix, faults."""

import io
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as Keys
from botocore.exceptions import ClientError, ConnectionClosedError
from moto.s3.models import S3Backend

from localregion import certificate
from localregion.api import ApiFaults
from localregion.auth import Credentials
from localregion.serving import serve_on
from tests.unit.test_region_api import REGION, Endpoint, error_of, session
from tests.unit.test_region_api import endpoint as endpoint  # noqa: PLC0414  (a fixture)

MIB = 1 << 20


@dataclass
class Bucket:
    """One of its own for each test, with an administrator's client and, if a test asks for it, a role's."""

    endpoint: Endpoint
    name: str
    s3: Any

    def put(self, key: str, body: bytes = b"here") -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)

    def get(self, key: str, **options: Any) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.name, Key=key, **options)["Body"].read())

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def role(self, *statements: tuple[str | list[str], str, dict[str, Any]]) -> Any:
        """A client of a role that may do this: action, resource below the bucket's ARN, condition."""
        role = uuid.uuid4().hex
        self.endpoint.api.faults = ApiFaults(iam_delay_ms=0)
        caller = self.endpoint.role(role)
        document = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": action,
                    "Resource": f"arn:aws:s3:::{self.name}{resource}",
                    "Condition": condition,
                }
                for action, resource, condition in statements
            ],
        }
        iam = self.endpoint.client(1, "iam")
        iam.put_role_policy(RoleName=role, PolicyName="backup", PolicyDocument=json.dumps(document))
        return self.endpoint.client(1, "s3", caller)


@pytest.fixture
def bucket(endpoint: Endpoint) -> Bucket:
    s3, name = endpoint.client(1, "s3"), uuid.uuid4().hex
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return Bucket(endpoint, name, s3)


def status_of(call: Callable[[], Any]) -> int:
    with pytest.raises(ClientError) as error:
        call()
    return int(error.value.response["ResponseMetadata"]["HTTPStatusCode"])


def piped(content: bytes) -> Any:
    """The end of a pipe that gives this, as a program's that makes a backup."""
    read, write = os.pipe()

    def fill() -> None:
        with os.fdopen(write, "wb") as file:
            file.write(content)

    threading.Thread(target=fill, daemon=True).start()
    return os.fdopen(read, "rb")


# -- objects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "checksums"), [("http", "when_supported"), ("https", "when_supported"), ("https", "when_required")]
)
def test_a_stream_becomes_an_object_in_parts_and_comes_back(
    bucket: Bucket, tmp_path: Path, scheme: str, checksums: Any
) -> None:
    """Over HTTP a part's body is signed; over HTTPS it is not, or ends with a checksum."""
    url = bucket.endpoint.url
    if scheme == "https":
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        serve_on(listening, bucket.endpoint.api, certificate.make(tmp_path, IPv4Address("127.0.0.1")))
    administrator = bucket.endpoint.administrator
    s3 = session().client(
        "s3",
        REGION,
        endpoint_url=url,
        verify=str(tmp_path / "certificate.pem"),
        aws_access_key_id=administrator.access_key,
        aws_secret_access_key=administrator.secret_key,
        config=Config(request_checksum_calculation=checksums, retries={"total_max_attempts": 1}, proxies={}),
    )
    content = os.urandom(20 * MIB)
    with piped(content) as stream:
        s3.upload_fileobj(stream, bucket.name, "full/backup.xb", ExtraArgs={"ServerSideEncryption": "AES256"})
    head = s3.head_object(Bucket=bucket.name, Key="full/backup.xb")
    assert (head["ContentLength"], head["ServerSideEncryption"]) == (20 * MIB, "AES256")
    assert head["ETag"].endswith('-3"')  # of three parts
    back = io.BytesIO()
    s3.download_fileobj(bucket.name, "full/backup.xb", back)
    assert back.getvalue() == content
    assert bucket.keys() == ["full/backup.xb"]
    s3.delete_object(Bucket=bucket.name, Key="full/backup.xb")
    assert bucket.keys() == []


@pytest.mark.parametrize("key", ["a//b", "a/../b", "/a", "ü +%41&x=1", "a/", "moto-api/reset"])
def test_a_key_is_what_the_client_says(bucket: Bucket, key: str) -> None:
    """S3's paths are signed as they are, and never made simpler."""
    bucket.put(key)
    assert bucket.keys() == [key]
    assert bucket.get(key) == b"here"


def test_objects_are_listed_by_prefix_and_page(bucket: Bucket) -> None:
    for key in ("full/1", "full/2", "full/2/info", "full/3", "log/1"):
        bucket.put(key)
    listing = bucket.s3.list_objects_v2(Bucket=bucket.name, Prefix="full/", Delimiter="/")
    assert [each["Key"] for each in listing["Contents"]] == ["full/1", "full/2", "full/3"]
    assert listing["CommonPrefixes"] == [{"Prefix": "full/2/"}]
    pages = bucket.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, PaginationConfig={"PageSize": 2})
    assert [[each["Key"] for each in page["Contents"]] for page in pages] == [
        ["full/1", "full/2"],
        ["full/2/info", "full/3"],
        ["log/1"],
    ]


def test_a_part_of_an_object(bucket: Bucket) -> None:
    bucket.put("a", b"0123456789")
    assert bucket.get("a", Range="bytes=2-4") == b"234"
    assert bucket.get("a", Range="bytes=-3") == b"789"
    assert error_of(partial(bucket.get, "a", Range="bytes=10-")) == "InvalidRange"


def test_a_bucket_is_in_the_region(bucket: Bucket) -> None:
    assert bucket.s3.get_bucket_location(Bucket=bucket.name)["LocationConstraint"] == REGION
    assert error_of(partial(bucket.s3.create_bucket, Bucket=uuid.uuid4().hex)) == "IllegalLocationConstraintException"
    assert status_of(partial(bucket.s3.head_bucket, Bucket=uuid.uuid4().hex)) == 404


def test_what_is_not_there_is_said_by_name(bucket: Bucket) -> None:
    s3, there, upload = bucket.s3, {"Bucket": bucket.name, "Key": "a"}, {"UploadId": "gone"}
    parts = {"Parts": [{"PartNumber": 1, "ETag": "x"}]}
    assert error_of(partial(s3.get_object, **there)) == "NoSuchKey"
    assert error_of(partial(s3.get_object, Bucket=uuid.uuid4().hex, Key="a")) == "NoSuchBucket"
    assert error_of(partial(s3.upload_part, **there, **upload, PartNumber=1, Body=b"")) == "NoSuchUpload"
    assert error_of(partial(s3.complete_multipart_upload, **there, **upload, MultipartUpload=parts)) == "NoSuchUpload"
    assert error_of(partial(s3.abort_multipart_upload, **there, **upload)) == "NoSuchUpload"


def test_an_upload_that_is_given_up_leaves_nothing(bucket: Bucket) -> None:
    there = {"Bucket": bucket.name, "Key": "a"}
    upload = bucket.s3.create_multipart_upload(**there)["UploadId"]
    bucket.s3.upload_part(**there, UploadId=upload, PartNumber=1, Body=b"x")
    assert [part["Size"] for part in bucket.s3.list_parts(**there, UploadId=upload)["Parts"]] == [1]
    bucket.s3.abort_multipart_upload(**there, UploadId=upload)
    assert bucket.keys() == []
    assert "Uploads" not in bucket.s3.list_multipart_uploads(Bucket=bucket.name)


def test_a_failovers_call_does_not_wait_for_a_backup(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    put, begun, go_on = S3Backend.put_object, threading.Event(), threading.Event()

    def slow(*arguments: Any, **named: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return put(*arguments, **named)

    monkeypatch.setattr(S3Backend, "put_object", slow)
    backup = threading.Thread(target=bucket.put, args=("a",))
    backup.start()
    assert begun.wait(30)
    bucket.endpoint.vpcs()
    assert backup.is_alive()
    go_on.set()
    backup.join(30)
    assert bucket.keys() == ["a"]


# -- signatures ------------------------------------------------------------------------------------------------


def ask(
    bucket: Bucket,
    method: str = "PUT",
    *,
    caller: Credentials | None = None,
    sign: bytes = b"right",
    send: Any = b"right",
    headers: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> Any:
    """A request for the object ``a``. ``headers`` are signed, those ``after`` are not."""
    caller = caller or bucket.endpoint.administrator
    url = f"{bucket.endpoint.url}/{bucket.name}/a"
    request = AWSRequest(method, url, dict(headers or {}), sign)
    S3SigV4Auth(Keys(caller.access_key, caller.secret_key, caller.token), "s3", REGION).add_auth(request)
    return urllib3.request(method, url, body=send, headers=dict(request.headers) | (after or {}), retries=False)


def code(answer: Any) -> tuple[int, str]:
    """The status and S3's error code; each error is one document of S3's format."""
    text = answer.data.decode().rpartition("?>\n")[2]
    assert text.startswith("<Error><Code>")
    assert text.endswith("</RequestId></Error>")
    return answer.status, text.removeprefix("<Error><Code>").partition("<")[0]


def test_a_request_that_is_signed_by_hand_is_served(bucket: Bucket) -> None:
    assert ask(bucket).status == 200
    assert bucket.get("a") == b"right"


def test_a_body_that_is_not_the_signed_one_is_refused(bucket: Bucket) -> None:
    assert code(ask(bucket, send=b"wrong")) == (400, "XAmzContentSHA256Mismatch")
    md5 = "fGwIAnbrbtLLhTPhOs0wzQ=="
    assert code(ask(bucket, headers={"Content-MD5": md5})) == (400, "BadDigest")
    assert code(ask(bucket, headers={"Content-MD5": "x"})) == (400, "InvalidDigest")
    assert bucket.keys() == []


def test_a_body_has_its_length_before_it(bucket: Bucket) -> None:
    assert code(ask(bucket, send=iter([b"right"]))) == (411, "MissingContentLength")


def test_a_header_of_s3_that_is_not_signed_or_not_as_signed_is_refused(bucket: Bucket) -> None:
    assert code(ask(bucket, after={"x-amz-acl": "public-read"})) == (403, "SignatureDoesNotMatch")
    changed = ask(bucket, headers={"x-amz-meta-a": "1"}, after={"x-amz-meta-a": "2"})
    assert code(changed) == (403, "SignatureDoesNotMatch")
    assert bucket.keys() == []


def test_who_is_not_known_is_told_in_s3s_words(bucket: Bucket) -> None:
    right = bucket.endpoint.administrator
    wrong = Credentials(right.access_key, "another key")
    role = bucket.endpoint.role(uuid.uuid4().hex)
    other = Credentials(role.access_key, role.secret_key, "another token")
    assert code(ask(bucket, caller=wrong)) == (403, "SignatureDoesNotMatch")
    assert code(ask(bucket, caller=Credentials.administrator())) == (403, "InvalidAccessKeyId")
    assert code(ask(bucket, caller=other)) == (400, "InvalidToken")
    assert code(urllib3.request("GET", f"{bucket.endpoint.url}/{bucket.name}/a")) == (403, "AccessDenied")
    assert ask(bucket, "HEAD", caller=wrong).data == b""


def test_credentials_come_to_their_end(bucket: Bucket) -> None:
    role = bucket.endpoint.role(uuid.uuid4().hex)
    expired = Credentials(**{**vars(role), "expires": role.expires and role.expires.replace(year=2000)})
    bucket.endpoint.keyring.add(expired)
    assert code(ask(bucket, caller=expired)) == (400, "ExpiredToken")


def test_chunks_that_are_signed_each_are_not_implemented(bucket: Bucket) -> None:
    class Chunked(S3SigV4Auth):
        def payload(self, request: Any) -> str:
            return "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"

    caller = bucket.endpoint.administrator
    url = f"{bucket.endpoint.url}/{bucket.name}/a"
    request = AWSRequest("PUT", url, {}, b"")
    Chunked(Keys(caller.access_key, caller.secret_key), "s3", REGION).add_auth(request)
    answer = urllib3.request("PUT", url, headers=dict(request.headers))
    assert code(answer) == (501, "NotImplemented")


def test_another_regions_signature_is_malformed(bucket: Bucket) -> None:
    caller = bucket.endpoint.administrator
    url = f"{bucket.endpoint.url}/{bucket.name}"
    request = AWSRequest("GET", url, {}, b"")
    S3SigV4Auth(Keys(caller.access_key, caller.secret_key), "s3", "us-east-1").add_auth(request)
    answer = urllib3.request("GET", url, headers=dict(request.headers))
    assert code(answer) == (400, "AuthorizationHeaderMalformed")


# -- what a role may do ----------------------------------------------------------------------------------------


ACTIONS = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]


@pytest.fixture
def mine(bucket: Bucket) -> Any:
    """A client of a role that may do everything to what is below ``mine/``, and nothing else."""
    return bucket.role(
        (ACTIONS, "/mine/*", {}), ("s3:ListBucket", "", {"StringLike": {"s3:prefix": ["mine/*", "mine"]}})
    )


Try = Callable[[Any, str, str, str], Any]
OPERATIONS: dict[str, Try] = {
    "PutObject": lambda s3, bucket, key, _: s3.put_object(Bucket=bucket, Key=key, Body=b"x"),
    "GetObject": lambda s3, bucket, key, _: s3.get_object(Bucket=bucket, Key=key),
    "HeadObject": lambda s3, bucket, key, _: s3.head_object(Bucket=bucket, Key=key),
    "DeleteObject": lambda s3, bucket, key, _: s3.delete_object(Bucket=bucket, Key=key),
    "ListObjectsV2": lambda s3, bucket, key, _: s3.list_objects_v2(Bucket=bucket, Prefix=key),
    "CreateMultipartUpload": lambda s3, bucket, key, _: s3.create_multipart_upload(Bucket=bucket, Key=key),
    "UploadPart": lambda s3, bucket, key, upload: s3.upload_part(
        Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x"
    ),
    "ListParts": lambda s3, bucket, key, upload: s3.list_parts(Bucket=bucket, Key=key, UploadId=upload),
    "CompleteMultipartUpload": lambda s3, bucket, key, upload: s3.complete_multipart_upload(
        Bucket=bucket,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "9dd4e461268c8034f5c8564e155c67a6"}]},
    ),
    "AbortMultipartUpload": lambda s3, bucket, key, upload: s3.abort_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_role_does_within_its_prefix_what_it_may_not_outside(bucket: Bucket, mine: Any, operation: str) -> None:
    call = OPERATIONS[operation]
    for key in ("mine/a", "other/a"):
        bucket.put(key)
        upload = bucket.s3.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
        bucket.s3.upload_part(Bucket=bucket.name, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
        if key == "mine/a":
            call(mine, bucket.name, key, upload)
        else:
            assert status_of(lambda key=key, upload=upload: call(mine, bucket.name, key, upload)) == 403  # type: ignore[misc]
    assert bucket.get("other/a") == b"here"


def test_an_action_does_not_include_another(bucket: Bucket) -> None:
    """Each operation but the one that is tried is allowed."""
    needed = {
        "HeadObject": "GetObject",
        "ListObjectsV2": "ListBucket",
        "ListParts": "ListMultipartUploadParts",
        "CreateMultipartUpload": "PutObject",
        "UploadPart": "PutObject",
        "CompleteMultipartUpload": "PutObject",
    }
    everything = {"ListBucket", *(action.removeprefix("s3:") for action in ACTIONS)}
    bucket.put("a")
    upload = bucket.s3.create_multipart_upload(Bucket=bucket.name, Key="a")["UploadId"]
    for operation, call in OPERATIONS.items():
        others = [f"s3:{action}" for action in everything - {needed.get(operation, operation)}]
        s3 = bucket.role((others, "*", {}))
        assert status_of(lambda call=call, s3=s3: call(s3, bucket.name, "a", upload)) == 403, operation  # type: ignore[misc]


def test_a_listing_without_a_prefix_is_not_one_of_the_allowed_prefix(bucket: Bucket, mine: Any) -> None:
    assert error_of(partial(mine.list_objects_v2, Bucket=bucket.name)) == "AccessDenied"
    assert status_of(partial(mine.head_bucket, Bucket=bucket.name)) == 403


def test_a_missing_object_is_told_to_who_may_list_the_bucket(bucket: Bucket, mine: Any) -> None:
    lister = bucket.role((["s3:GetObject", "s3:ListBucket"], "*", {}))
    for call in ("head_object", "get_object"):
        assert status_of(partial(getattr(mine, call), Bucket=bucket.name, Key="mine/missing")) == 403
        assert status_of(partial(getattr(lister, call), Bucket=bucket.name, Key="mine/missing")) == 404


def test_of_several_objects_those_that_a_role_may_delete_are_deleted(bucket: Bucket, mine: Any) -> None:
    for key in ("mine/a", "other/a"):
        bucket.put(key)
    answer = mine.delete_objects(Bucket=bucket.name, Delete={"Objects": [{"Key": "mine/a"}, {"Key": "other/a"}]})
    assert [each["Key"] for each in answer["Deleted"]] == ["mine/a"]
    assert [(each["Key"], each["Code"]) for each in answer["Errors"]] == [("other/a", "AccessDenied")]
    assert bucket.keys() == ["other/a"]
    answer = mine.delete_objects(Bucket=bucket.name, Delete={"Objects": [{"Key": "other/a"}]})
    assert [each["Key"] for each in answer["Errors"]] == ["other/a"]
    assert bucket.keys() == ["other/a"]


def test_what_is_not_known_here_is_denied_by_its_name(bucket: Bucket) -> None:
    role = bucket.role(("s3:Put*", "*", {}), ("s3:GetObject", "*", {}))
    bucket.put("a")
    with pytest.raises(ClientError, match=r"s3:\(PUT /bucket\?versioning\) on resource"):
        role.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(ClientError, match=r"s3:\(PUT /bucket/key by a copy\) on resource"):
        role.copy_object(Bucket=bucket.name, Key="b", CopySource={"Bucket": bucket.name, "Key": "a"})


def test_an_access_list_needs_an_action_of_its_own(bucket: Bucket) -> None:
    role = bucket.role(("s3:PutObject", "*", {}))
    role.put_object(Bucket=bucket.name, Key="a")
    with pytest.raises(ClientError, match="s3:PutObjectAcl on resource"):
        role.put_object(Bucket=bucket.name, Key="a", ACL="public-read")


def test_a_role_may_be_held_to_encryption(bucket: Bucket) -> None:
    role = bucket.role(("s3:PutObject", "/*", {"StringEquals": {"s3:x-amz-server-side-encryption": "aws:kms"}}))
    put = partial(role.put_object, Bucket=bucket.name, Key="a")
    put(ServerSideEncryption="aws:kms")
    assert error_of(put) == error_of(partial(put, ServerSideEncryption="AES256")) == "AccessDenied"


# -- faults ----------------------------------------------------------------------------------------------------


def test_calls_are_kept_by_the_action_that_they_need(bucket: Bucket, mine: Any) -> None:
    before = bucket.endpoint.api.calls.copy()
    mine.create_multipart_upload(Bucket=bucket.name, Key="mine/a")
    assert {action for _, _, action in bucket.endpoint.api.calls - before} == {"s3:PutObject"}


def test_faults_strike_operations_by_their_name(bucket: Bucket) -> None:
    faults = (
        (ApiFaults(throttle_rate=1, actions=["PutObject"]), (503, "SlowDown")),
        (ApiFaults(error_rate=1, actions=["PutObject"]), (500, "InternalError")),
    )
    for fault, expected in faults:
        bucket.endpoint.api.faults = fault
        assert code(ask(bucket)) == expected
        assert bucket.keys() == []


def test_a_stream_is_uploaded_though_s3_is_slow_at_times(bucket: Bucket) -> None:
    bucket.endpoint.api.faults = ApiFaults(throttle_rate=1, actions=["UploadPart"], times=2)
    content = os.urandom(6 * MIB)
    with piped(content) as stream:
        config = TransferConfig(multipart_chunksize=5 * MIB, multipart_threshold=5 * MIB)
        bucket.endpoint.client(4, "s3").upload_fileobj(stream, bucket.name, "a", Config=config)
    assert bucket.endpoint.api.faults.times == 0
    assert bucket.get("a") == content


def test_a_lost_answer_is_one_to_an_upload_that_is_there(bucket: Bucket) -> None:
    bucket.endpoint.api.faults = ApiFaults(lost_rate=1, actions=["PutObject"])
    with pytest.raises(ConnectionClosedError):
        bucket.put("a")
    assert bucket.keys() == ["a"]


def test_what_moto_fails_at_is_answered_as_s3_does(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **_named: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(S3Backend, "put_object", fail)
    assert code(ask(bucket)) == (500, "InternalError")
