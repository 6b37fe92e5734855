"""Open a page in headless Chromium, where there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
FITS = """
setTimeout(() => {
  const page = document.documentElement;
  page.dataset.fits = page.scrollWidth <= page.clientWidth && page.scrollWidth > 300;
}, 1000);
"""


def opened(file: Path, profile: Path, *options: str, seconds: int = 3) -> str:
    """Return the page's document after so many seconds of its clock; no error is logged.

    profile: a folder for Chromium's own files.
    """
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", *options,
            f"--user-data-dir={profile}", "--enable-logging=stderr",
            f"--virtual-time-budget={1000 * seconds}", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def check_page(file: Path, profile: Path) -> None:
    """Open a page in a wide and in a narrow window, which it must fit; without Chromium do nothing.

    It is a copy beside the page that is opened, with a script at its end.
    """
    if CHROMIUM is None:
        return
    copy = file.with_name(f"checked-{file.name}")
    copy.write_text(f"{file.read_text()}<script>{FITS}</script>")
    try:
        for width in (1280, 400):
            document = opened(copy, profile, f"--window-size={width},1200")
            assert 'data-fits="true"' in document, f"{file.name} does not fit into {width} pixels"
    finally:
        copy.unlink()
