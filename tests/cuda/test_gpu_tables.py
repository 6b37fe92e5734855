"""docs/gpu.md: its tables are those of the run that is kept, and this run names no machine."""

import json
import re
import shutil

import pytest

import gpu_tables
from minddpm import InputError
from minddpm.gpucheck.rung_timings import CONVOLUTIONS
from tables import replace


def test_the_page_has_the_numbers_of_the_run():
    """If this fails: python benchmarks/gpu_tables.py --write."""
    text = gpu_tables.FILE.read_text()
    for name, table in gpu_tables.made(gpu_tables.RESULTS).items():
        assert replace(text, name, table) == text, name


def test_the_run_is_complete_and_names_no_folder():
    text = gpu_tables.RESULTS.read_text()
    content = json.loads(text)
    assert not re.search(r'[" ](/\w+|~)/', text)
    assert content["emulated"] is content["quick"] is False
    assert all(check["ok"] for check in content["checks"])
    assert len(gpu_tables._convolutions(content)) == 2 * len(CONVOLUTIONS)
    _, lines = gpu_tables.bounds(content)
    reached = [(int(line[2]), int(line[3])) for line in lines]
    assert len(reached) == 6
    assert all(0 < measured < bound <= 100 for measured, bound in reached)


def test_another_run_is_kept(monkeypatch, tmp_path, capsys):
    """Its numbers are in the page, and a contestant that it lacks is not."""
    content = json.loads(gpu_tables.RESULTS.read_text())
    first = content["timings"][0]
    first |= {"milliseconds": 123.456, "queued": None}
    content["timings"] = [row for row in content["timings"] if row["who"] != "cupy, eager"]
    (other := tmp_path / "gpucheck.json").write_text(json.dumps(content))
    for name in ("FILE", "RESULTS"):
        copy = shutil.copy(getattr(gpu_tables, name), tmp_path)
        monkeypatch.setattr(gpu_tables, name, tmp_path / copy.rpartition("/")[2])
    monkeypatch.setattr(gpu_tables, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu_tables.py", "--keep", str(other)])
    assert gpu_tables.main() == 0
    assert gpu_tables.RESULTS.read_text() == other.read_text()
    page = gpu_tables.FILE.read_text()
    assert "| cupy, replayed | 123.5 |  | " in page
    assert "cupy, eager" not in page
    assert "wrote gpu.md" in capsys.readouterr().out
    content["machine"]["GPU"] = "another"
    other.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"of another, and .* of NVIDIA H200"):
        gpu_tables.main()


@pytest.mark.parametrize("missing", ["steps", "digits", "sanitizer"])
def test_a_run_that_ended_early_has_tables(missing, tmp_path):
    content = json.loads(gpu_tables.RESULTS.read_text()) | {missing: []}
    (path := tmp_path / "early.json").write_text(json.dumps(content))
    assert set(gpu_tables.made(path)) == set(gpu_tables.TABLES)
