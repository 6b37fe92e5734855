"""Run the student's kernel on the emulator."""

from pathlib import Path


class Kernel:
    def __init__(self, file: Path):
        self.file = file

    def is_empty(self) -> bool:
        return True
