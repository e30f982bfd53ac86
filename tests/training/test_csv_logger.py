"""metrics.csv: a table that is whole at any moment and goes on where a checkpoint stopped."""

import csv
import io
from pathlib import Path

import pytest

from ddpm_lab.training.csv_logger import CsvLogger


def rows(folder: Path) -> list[dict[str, str]]:
    """What a reader sees now; None would stand for a cell without a column."""
    found = list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text()), strict=True))
    assert all(None not in row and None not in row.values() for row in found)
    return found


@pytest.fixture
def logger(tmp_path) -> CsvLogger:
    return CsvLogger(str(tmp_path))


def test_new_columns_appear_in_earlier_rows_empty(logger, tmp_path):
    logger.log_metrics({"a": 1.5}, 1)
    logger.log_metrics({"a": 2.5}, 2)
    logger.log_metrics({"b": 7, "a": 3.5}, 3)
    logger.log_metrics({"b": 8}, 4)
    assert rows(tmp_path) == [
        {"step": "1", "a": "1.5", "b": ""},
        {"step": "2", "a": "2.5", "b": ""},
        {"step": "3", "a": "3.5", "b": "7"},
        {"step": "4", "a": "", "b": "8"},
    ]


def test_what_is_logged_twice_for_a_step_shares_a_row(logger, tmp_path):
    logger.log_metrics({"a": 1, "b": 1}, 5)
    logger.log_metrics({"b": 2}, 5)
    logger.log_metrics({"c": 3}, 5)
    logger.log_metrics({"a": 4}, 6)
    assert rows(tmp_path) == [{"step": "5", "a": "1", "b": "2", "c": "3"}, {"step": "6", "a": "4", "b": "", "c": ""}]


def test_the_file_is_whole_after_every_call(logger, tmp_path):
    for step in range(1, 12):
        logger.log_metrics({"train": step / 3} | ({"val": 0.1} if step % 4 == 0 else {}), step)
        if step % 3 == 0:
            logger.log_metrics({"more": -step}, step)
        seen = rows(tmp_path)
        assert [int(row["step"]) for row in seen] == list(range(1, step + 1))
        assert float(seen[-1]["train"]) == step / 3
        assert (tmp_path / "metrics.csv").read_bytes().endswith(b"\n")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_row_without_new_columns_is_appended_and_nothing_rewritten(logger, tmp_path):
    logger.log_metrics({"a": 1}, 1)
    before = (tmp_path / "metrics.csv").stat().st_ino
    logger.log_metrics({"a": 2}, 2)
    assert (tmp_path / "metrics.csv").stat().st_ino == before


def test_keep_until_drops_later_rows_and_goes_on(tmp_path):
    first = CsvLogger(str(tmp_path))
    for step in (10, 20, 30, 40):
        first.log_metrics({"a": step / 7} | ({"b": step} if step == 20 else {}), step)
    second = CsvLogger(str(tmp_path))
    second.keep_until(20)
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20"]
    second.log_metrics({"c": 5}, 20)
    second.log_metrics({"a": 1}, 30)
    assert rows(tmp_path) == [
        {"step": "10", "a": str(10 / 7), "b": "", "c": ""},
        {"step": "20", "a": str(20 / 7), "b": "20", "c": "5"},
        {"step": "30", "a": "1", "b": "", "c": ""},
    ]


def test_a_resumed_table_is_the_unbroken_one_to_the_byte(tmp_path):
    def write(logger: CsvLogger, steps: range) -> None:
        for step in steps:
            logger.log_metrics({"a": step / 7, "nan": float("nan")} | ({"late": step} if step > 6 else {}), step)

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(CsvLogger(str(tmp_path / "a")), range(1, 10))
    write(CsvLogger(str(tmp_path / "b")), range(1, 6))
    resumed = CsvLogger(str(tmp_path / "b"))
    resumed.keep_until(3)
    write(resumed, range(4, 10))
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()


def test_keep_until_without_a_table_is_a_fresh_start(logger, tmp_path):
    logger.keep_until(100)
    assert not (tmp_path / "metrics.csv").exists()
    logger.log_metrics({"a": 1}, 1)
    assert rows(tmp_path) == [{"step": "1", "a": "1"}]


def test_rows_of_another_run_are_taken_over_and_left_there(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = CsvLogger(str(tmp_path / "old")), CsvLogger(str(tmp_path / "new"))
    for step in (1, 2, 3):
        old.log_metrics({"a": step}, step)
    new.keep_until(2, tmp_path / "old" / "metrics.csv")
    new.log_metrics({"a": 9}, 3)
    assert [row["a"] for row in rows(tmp_path / "new")] == ["1", "2", "9"]
    assert [row["a"] for row in rows(tmp_path / "old")] == ["1", "2", "3"]


def test_it_is_a_logger_lightning_can_ask(logger):
    logger.log_hyperparams({"a": 1})
    assert (logger.name, logger.version) == ("csv", "")
