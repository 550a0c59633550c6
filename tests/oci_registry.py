"""A registry of one image: the part of the OCI distribution specification that a pull from oras:// needs.

python oci_registry.py IMAGE.sif prints the digest of the image's manifest, and serves it on 127.0.0.1:5000.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def described(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": f"application/vnd.sylabs.sif.{kind}", "digest": digest(content), "size": len(content)}


def serve(image: bytes) -> None:
    config = b"{}"
    parts = {"config": described("config.v1+json", config), "layers": [described("layer.v1.sif", image)]}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **parts}).encode()
    kept = {digest(content): content for content in (image, config, manifest)}

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b"" if self.path == "/v2/" else kept.get(self.path.rpartition("/")[2])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", MANIFEST if "/manifests/" in self.path else "application/octet-stream")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    with ThreadingHTTPServer(("127.0.0.1", 5000), Registry) as server:
        print(digest(manifest), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]).read_bytes())
