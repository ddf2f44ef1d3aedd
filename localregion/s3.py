"""What is S3's own: the permissions that a request needs, its payload, its errors. The objects are moto's.

Buckets are named by the path, not by the host. Sources: Amazon S3 API Reference; Service Authorization Reference,
"Actions, resources, and condition keys for Amazon S3".
"""

import base64
import binascii
import hashlib
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from werkzeug import Response

from localregion.auth import Denied, Request

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ElementTree.register_namespace("", _NAMESPACE)
#: The API's operation and IAM's action, by what a request is: its method, what its path names, its subresource.
_OPERATIONS = {
    "GET /": ("ListBuckets", "ListAllMyBuckets"),
    "PUT /bucket": ("CreateBucket", "CreateBucket"),
    "HEAD /bucket": ("HeadBucket", "ListBucket"),
    "DELETE /bucket": ("DeleteBucket", "DeleteBucket"),
    "GET /bucket": ("ListObjects", "ListBucket"),
    "GET /bucket?list-type": ("ListObjectsV2", "ListBucket"),
    "GET /bucket?location": ("GetBucketLocation", "GetBucketLocation"),
    "GET /bucket?uploads": ("ListMultipartUploads", "ListBucketMultipartUploads"),
    "POST /bucket?delete": ("DeleteObjects", "DeleteObject"),
    "PUT /bucket/key": ("PutObject", "PutObject"),
    "GET /bucket/key": ("GetObject", "GetObject"),
    "HEAD /bucket/key": ("HeadObject", "GetObject"),
    "DELETE /bucket/key": ("DeleteObject", "DeleteObject"),
    "POST /bucket/key?uploads": ("CreateMultipartUpload", "PutObject"),
    "PUT /bucket/key?partNumber&uploadId": ("UploadPart", "PutObject"),
    "POST /bucket/key?uploadId": ("CompleteMultipartUpload", "PutObject"),
    "GET /bucket/key?uploadId": ("ListParts", "ListMultipartUploadParts"),
    "DELETE /bucket/key?uploadId": ("AbortMultipartUpload", "AbortMultipartUpload"),
}
#: Parameters that say what exactly is wanted of an operation. Any other names a subresource, and so another operation.
_REFINING = {
    *("prefix", "delimiter", "max-keys", "continuation-token", "start-after", "encoding-type", "fetch-owner", "marker"),
    *("key-marker", "upload-id-marker", "max-uploads", "part-number-marker", "max-parts", "x-id"),
}
#: Headers of an upload that need a permission of their own.
_FURTHER = {
    "x-amz-acl": "PutObjectAcl",
    "x-amz-tagging": "PutObjectTagging",
    "x-amz-object-lock-mode": "PutObjectRetention",
    "x-amz-object-lock-legal-hold": "PutObjectLegalHold",
}
#: Headers that are condition keys, each with ``s3:`` before its name.
_CONDITIONS = ("x-amz-acl", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")


class Need(NamedTuple):
    """A permission: an action as IAM names it, on a resource, with the condition keys of the request."""

    action: str
    resource: str
    context: Mapping[str, str]

    @property
    def key(self) -> str:
        """Of the object that the resource is."""
        return self.resource.partition("/")[2]


@dataclass(frozen=True)
class Call:
    """A request in S3's terms. An operation that is not known here has what the request was for a name."""

    operation: str
    needs: tuple[Need, ...]

    @classmethod
    def of(cls, request: Request, partition: str) -> "Call":
        """Raises Denied if the request names what to delete and does not say it."""
        _, bucket, key = (*request.path.split("/", 2), "", "")[:3]
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        kind = f"{request.method} /{'bucket' if bucket or key else ''}{'/key' if key else ''}"
        subresource = "&".join(sorted(query.keys() - _REFINING))
        kind += f"?{subresource}" if subresource else ""
        kind += " by a copy" if "x-amz-copy-source" in request.headers else ""
        # In brackets s3:* allows what is not known here, and s3:Put* does not.
        operation, action = _OPERATIONS.get(kind, (kind, f"({kind})"))
        context = {f"s3:{name}": query[name] for name in ("prefix", "delimiter", "max-keys") if name in query}
        context |= {f"s3:{name}": request.headers[name] for name in _CONDITIONS if name in request.headers}
        resource = f"arn:{partition}:s3:::{bucket}{'/' if key else ''}{key}" if bucket else "*"
        actions = [action]
        if operation in ("PutObject", "CreateMultipartUpload"):
            actions += [further for name, further in _FURTHER.items() if name in request.headers]
        resources = [resource]
        if operation == "DeleteObjects":
            resources = [f"{resource}/{key}" for _, key in _objects(request.body)[1]]
        return cls(operation, tuple(Need(f"s3:{action}", each, context) for each in resources for action in actions))

    @property
    def listing(self) -> Need:
        """The permission without which nobody is told that an object is missing."""
        return Need("s3:ListBucket", self.needs[0].resource.partition("/")[0], {})


class S3:
    """moto's S3. It has a lock of its own: a failover's call to EC2 must not wait for a part of a backup."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()

    def answer(self, operation: str, body: bytes, environ: Mapping[str, Any]) -> Response:
        """Raises Denied."""
        environ = {
            **environ,
            "HTTP_HOST": "localhost",  # the path names the bucket: by another host moto would look for it there
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
        }
        try:
            with self._lock:
                return Response.from_app(self._app, environ, buffered=True)
        except KeyError:
            if operation not in ("UploadPart", "CompleteMultipartUpload"):
                raise
            message = "The specified upload does not exist. It may have been aborted or completed."
            raise Denied(404, "NoSuchUpload", message) from None

    def delete_objects(self, body: bytes, environ: Mapping[str, Any], refused: Mapping[str, str]) -> Response:
        """The answer says of each key that is refused why, and of the others what moto does."""
        document, objects = _objects(body)
        for each, key in objects:
            if key in refused:
                document.remove(each)
        if document.find("{*}Object") is None:
            answer = Response(f'<DeleteResult xmlns="{_NAMESPACE}"/>', content_type="application/xml")
        else:
            answer = self.answer("DeleteObjects", ElementTree.tostring(document), environ)
        if answer.status_code == HTTPStatus.OK:
            result = ElementTree.fromstring(answer.get_data())
            for key, reason in refused.items():
                failure = ElementTree.SubElement(result, f"{{{_NAMESPACE}}}Error")
                for name, value in (("Key", key), ("Code", "AccessDenied"), ("Message", reason)):
                    ElementTree.SubElement(failure, f"{{{_NAMESPACE}}}{name}").text = value
            answer.set_data(ElementTree.tostring(result, "utf-8", xml_declaration=True))
        return answer


def check_payload(request: Request) -> None:
    """Raises Denied if the body is not the one that the headers speak of.

    Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header".
    """
    if "transfer-encoding" in request.headers and "x-amz-decoded-content-length" not in request.headers:
        raise Denied(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    claimed = request.headers.get("x-amz-content-sha256")
    if claimed is None:
        raise Denied(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if claimed.startswith("STREAMING-") and claimed != "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
        raise Denied(
            501, "NotImplemented", "A header you provided implies functionality that is not implemented: signed chunks"
        )
    if not claimed.startswith(("UNSIGNED-", "STREAMING-")) and claimed != hashlib.sha256(request.body).hexdigest():
        raise Denied(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    digest = request.headers.get("content-md5")
    if digest is None:
        return
    try:
        expected = base64.b64decode(digest, validate=True)
    except binascii.Error:
        raise Denied(400, "InvalidDigest", "The Content-MD5 you specified was invalid.") from None
    if expected != hashlib.md5(request.body, usedforsecurity=False).digest():
        raise Denied(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")


def error(denied: Denied) -> Response:
    """To a HEAD request werkzeug sends the headers alone, as S3 does."""
    document = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(denied.code)}</Code>'
        f"<Message>{escape(denied.message)}</Message><RequestId>0000000000000000</RequestId></Error>"
    )
    return Response(document, denied.status, content_type="application/xml")


def _objects(body: bytes) -> tuple[ElementTree.Element, list[tuple[ElementTree.Element, str]]]:
    """The document of DeleteObjects, and what it names, with its keys. Raises Denied."""
    malformed = Denied(400, "MalformedXML", "The XML you provided was not well-formed or did not validate.")
    try:
        document = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise malformed from None
    found = [(each, each.findtext("{*}Key") or "") for each in document.findall("{*}Object")]
    if not found:
        raise malformed
    return document, found
