"""Bars of a table: which values they have, and the picture."""

import io

import pytest
from PIL import Image
from test_sweep_summary import TABLE, record

from ps_jax.errors import ConfigError
from ps_jax.sweep import Row, Table
from ps_jax.sweep.bars import bar_series, main, table_bars
from ps_jax.sweep.records import Records


def test_bars_are_the_papers_numbers_and_the_means_of_our_runs(tmp_path):
    records = Records(tmp_path / "runs.jsonl")
    for seed, value in enumerate((0.05, 0.07)):
        records.put(record("none", seed, value, 0.5))
    records.put(record("QC", 0, 0.09, 0.5))
    series = bar_series(TABLE, records, "mAP")
    assert list(series) == ["paper, A", "paper, B", "ours"]
    assert [value.mean for value in series["paper, B"]] == [52.7, 54.5, 55.6]
    none, oc, qc = series["ours"]
    assert (none.mean, none.spread, none.seeds) == (pytest.approx(6), pytest.approx(2**0.5), 2)
    assert oc is None and (qc.mean, qc.spread) == (pytest.approx(9), None)
    assert [value and value.mean for value in bar_series(TABLE, records, "AP")["paper, B"]] == [
        88.8,
        89.1,
        88.9,
    ]
    with Image.open(io.BytesIO(table_bars(TABLE, records))) as picture:
        assert picture.size == (1408, 484)  # two panels


def test_one_command_draws_a_table_that_was_not_run_yet(tmp_path):
    picture = tmp_path / "figure6.png"
    main(["configs/tables/alignps_figure6.py", "--picture", str(picture), "--out", str(tmp_path)])
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_table_without_numbers_is_refused(tmp_path):
    table = Table("Nothing", "nobody", (Row("one", "x.py"),), {"mAP": "search/*/mAP"})
    with pytest.raises(ConfigError, match="Nothing: there are no numbers yet"):
        table_bars(table, Records(tmp_path / "runs.jsonl"))
