"""Download a file of known SHA-256; what an interrupted download has got is kept for the next."""

import hashlib
import http
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minddpm.data.download import CHUNK, TIMEOUT, DownloadError
from minddpm.errors import InputError
from minddpm.progress_bar import tqdm
from minddpm.storage.lock import lock


class Remote(NamedTuple):
    """A file on the web: its address, and the length and SHA-256 of the bytes as served."""

    url: str
    length: int
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


def fetch(remote: Remote, folder: Path) -> None:
    """Download a file into a folder; it gets its name once it is complete and verified.

    Until then it is `<name>.part`, which the next call continues. A second process waits until the
    first has ended.
    Raises DownloadError, whose message is a clause, and InputError if it cannot be written.
    """
    path = folder / remote.name
    part = path.with_name(f"{path.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _held = lock(folder, wait=True)  # until this function returns
        if path.is_file():  # another process has downloaded it meanwhile
            return
        with part.open("ab") as file:
            if file.tell() < remote.length:
                _continue(remote, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave an empty file
        with part.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != remote.sha256:
            part.unlink()
            raise DownloadError(f"{remote.url} sent another file (its SHA-256 differs)")
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}): free some space, or set "
            "XDG_CACHE_HOME to a folder that can be written."
        ) from error


def _continue(remote: Remote, file: BinaryIO) -> None:
    """Append what is missing of the file. Raises DownloadError if the mirror does not send it."""
    begun = file.tell()
    request = urllib.request.Request(remote.url)
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{remote.url} did not answer ({error})") from error
    with response:
        if begun and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            _empty(file)  # the mirror sends it from its beginning
        with tqdm(
            total=remote.length, initial=file.tell(), desc=remote.name, unit="B", unit_scale=True
        ) as bar:
            while chunk := _read(response, remote.url):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > remote.length:
                    _empty(file)
                    raise DownloadError(f"{remote.url} sent another file (it is larger)")
    if file.tell() < remote.length:
        raise DownloadError(
            f"{remote.url} sent {file.tell():,} of {remote.length:,} bytes; the next try continues"
        )


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _read(response: BinaryIO, url: str) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} stopped ({error}); the next try continues") from error
