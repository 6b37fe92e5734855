"""Download MNIST's four files from public mirrors; only complete, verified files are stored."""

import hashlib
import http.client
import io
import urllib.request
from pathlib import Path

from minddpm.data.idx import DAMAGED_GZIP, decompressed
from minddpm.progress_bar import tqdm
from minddpm.storage.atomic import atomic_write

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
TIMEOUT = 10  # seconds without a response
CHUNK = 1 << 16  # bytes between two updates of the progress bar
LARGEST = 47_040_016  # bytes of the largest file, decompressed

# Hashes of the decompressed bytes: mirrors compress the same file differently.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DownloadError(Exception):
    """Raised if no mirror has the right files; the message is a clause that gives the reason."""


def download_all(stems: list[str], directory: Path) -> None:
    """Download the named files (keys of SHA256), gzip-compressed, into ``directory``.

    A file gets its name only once it is complete and has the right SHA-256. Files that one mirror
    does not have are requested from the next mirror.
    Raises DownloadError if no mirror has a file, InputError if a file cannot be written.
    """
    remaining = list(stems)
    for mirror in MIRRORS:
        try:
            while remaining:
                compressed = _fetch(mirror, remaining[0])
                with atomic_write(directory / f"{remaining[0]}.gz") as file:
                    file.write(compressed)
                remaining.pop(0)
            return
        except DownloadError as error:
            reason = error
    raise reason


def _fetch(mirror: str, stem: str) -> bytes:
    """Return the bytes of the gzip file after checking them in memory."""
    url = f"{mirror}{stem}.gz"
    compressed = bytearray()
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,
            tqdm(total=response.length, desc=stem, unit="B", unit_scale=True) as bar,
        ):
            while chunk := response.read(CHUNK):
                compressed += chunk
                bar.update(len(chunk))
                if len(compressed) > LARGEST:
                    raise DownloadError(f"{url} sent another file than MNIST's (it is larger)")
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} did not answer ({error})") from error
    try:
        raw = decompressed(io.BytesIO(compressed)).read(LARGEST + 1)
    except DAMAGED_GZIP as error:
        raise DownloadError(f"{url} sent a damaged file") from error
    if hashlib.sha256(raw).hexdigest() != SHA256[stem]:
        raise DownloadError(f"{url} sent another file than MNIST's (its SHA-256 differs)")
    return bytes(compressed)
