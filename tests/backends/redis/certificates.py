"""Throw-away certificates, made with openssl."""

import subprocess
from pathlib import Path

from tests.backends.redis.servers import need


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.key = folder / f"{name}.key"
        self.certificate = folder / f"{name}.pem"
        folder.mkdir(parents=True, exist_ok=True)
        subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", *_CURVE]
        extensions = [
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        _openssl("req", "-x509", *subject, *extensions, *files)

    def issue(self, name: str, alternative: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        """A certificate and its key, signed by this authority."""
        key, request, certificate, extensions = (
            self.folder / f"{name}.{end}" for end in ("key", "csr", "crt", "ext")
        )
        _openssl(
            "req",
            "-new",
            "-nodes",
            "-subj",
            f"/CN={name}",
            *_CURVE,
            "-keyout",
            str(key),
            "-out",
            str(request),
        )
        extensions.write_text(f"subjectAltName={alternative}\n")
        signer = ["-CA", str(self.certificate), "-CAkey", str(self.key), "-CAcreateserial", "-days", "2"]
        files = ["-in", str(request), "-out", str(certificate), "-extfile", str(extensions)]
        _openssl("x509", "-req", *signer, *files)
        return certificate, key


_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]


def _openssl(*arguments: str) -> None:
    subprocess.run([need("openssl"), *arguments], check=True, capture_output=True)
