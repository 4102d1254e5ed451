"""The numbers and the text of a sweep's summary."""

import pytest

from ps_jax.errors import ConfigError
from ps_jax.sweep import Ladder, Row, Table
from ps_jax.sweep.ladder import ladder_curve
from ps_jax.sweep.records import FAILED, FINISHED, INTERRUPTED, Record, Records
from ps_jax.sweep.running import result_at
from ps_jax.sweep.summary import difference, format_summary, measured, verdict

METRICS = {"mAP": "search/*/mAP", "AP": "detection/AP"}
TABLE = Table(
    title="Three arms",
    source="a paper, table 1",
    rows=(
        Row("none", "x.py", paper={"A": {"mAP": 91.9}, "B": {"mAP": 52.7, "AP": 88.8}}),
        Row("OC", "x.py", paper={"A": {"mAP": 92.8}, "B": {"mAP": 54.5, "AP": 89.1}}),
        Row("QC", "x.py", paper={"A": {"mAP": 93.3}, "B": {"mAP": 55.6, "AP": 88.9}}),
    ),
    metrics=METRICS,
    contrasts=(("QC", "none"), ("QC", "OC")),
    ladder=Ladder(
        "Noise", "boxes", {"QC": {100: "QC"}, "OC": {20: "none", 100: "OC"}}, "none", ("mAP", "AP")
    ),
)


def record(row, seed, mean_ap, ap, minutes=2.0, status=FINISHED, message=""):
    results = {"mAP": mean_ap, "AP": ap} if status == FINISHED else {}
    return Record(row, seed, ("--config", "x.py"), status, 0, minutes, results, {"jax": "1.2"}, message)


@pytest.fixture
def records(tmp_path):
    records = Records(tmp_path / "runs.jsonl")
    for one in (
        *(record("none", seed, value, 0.5) for seed, value in enumerate((0.05, 0.06, 0.07))),
        *(record("QC", seed, value, 0.5 + seed / 10) for seed, value in enumerate((0.09, 0.11, 0.10))),
        record("OC", 0, 0.08, 0.5, minutes=3.0),
        record("OC", 1, 0, 0, status=FAILED, message="the data are missing"),
    ):
        records.put(one)
    return records


def test_summary_has_the_papers_numbers_beside_ours(records):
    text = format_summary(TABLE, records, "python -m ps_jax.sweep table.py")
    assert (
        text
        == """# Three arms

Source of the paper's numbers: a paper, table 1.

| row | A mAP | B mAP | B AP | ours mAP | ours AP | runs | minutes a run |
| --- | --- | --- | --- | --- | --- | --- | --- |
| none | 91.9 | 52.7 | 88.8 | 6.0 ± 1.0 | 50.0 ± 0.0 | 3 | 2.0 |
| OC | 92.8 | 54.5 | 89.1 | 8.0 | 50.0 | 1 | 3.0 |
| QC | 93.3 | 55.6 | 88.9 | 10.0 ± 1.0 | 60.0 ± 10.0 | 3 | 2.0 |

Ours: mean ± standard deviation (n - 1) over seeds.

## Contrasts

| contrast | metric | A | B | ours | verdict |
| --- | --- | --- | --- | --- | --- |
| QC - none | mAP | +1.4 | +2.9 | +4.0 ± 1.4 | as the paper |
| QC - none | AP |  | +0.1 | +10.0 ± 10.0 | undecided |
| QC - OC | mAP | +0.5 | +1.1 | +2.0 | undecided (one seed) |
| QC - OC | AP |  | -0.2 | +10.0 | undecided (one seed) |

Undecided: the spread of the difference, sqrt(s1² + s2²), covers the difference, or there is one seed only.

## Failed

- OC, seed 1: the data are missing

Command: `python -m ps_jax.sweep table.py`

Versions: jax 1.2
"""
    )


def test_spread_is_the_standard_deviation_over_seeds():
    assert measured([]) is None
    assert measured([0.25]) == (25.0, None, 1)
    mean, spread, count = measured([0.1, 0.2, 0.6])
    assert (mean, count) == (pytest.approx(30.0), 3)
    assert spread == pytest.approx(26.457513110645905)  # sqrt((20^2 + 10^2 + 30^2) / 2)
    assert difference(measured([0.1, 0.3]), measured([0.0, 0.1])) == pytest.approx(
        (15.0, 15.811388300841898, 2)
    )


@pytest.mark.parametrize(
    ("ours", "paper", "expected"),
    [
        ([0.10, 0.12], [1.0, 2.0], "as the paper"),
        ([0.10, 0.12], [-1.0], "against the paper"),
        ([0.10, 0.12], [-1.0, 2.0], "higher"),
        ([-0.10, -0.12], [], "lower"),
        ([0.10, 0.12], [0.0, 1.0], "higher"),
        ([0.10, -0.06], [1.0], "undecided"),  # 2.0 with a spread of 11.3
        ([0.0, 0.0], [1.0], "undecided"),
        ([0.5], [1.0], "undecided (one seed)"),
    ],
)
def test_contrast_is_undecided_where_the_spread_covers_it(ours, paper, expected):
    zero = measured([0.0] * len(ours))
    assert verdict(difference(measured(ours), zero), paper) == expected


def test_difference_as_large_as_its_spread_is_undecided():
    ours = measured([0.5, 0.5])
    assert verdict(ours._replace(mean=1.0, spread=1.0), [1.0]) == "undecided"
    assert verdict(ours._replace(mean=1.0, spread=0.999), [1.0]) == "as the paper"


def test_records_replace_earlier_ones_and_are_read_back(tmp_path):
    path = tmp_path / "runs.jsonl"
    records = Records(path)
    records.put(record("none", 1, 0, 0, minutes=1.5, status=INTERRUPTED))
    records.put(record("none", 0, 0.1, 0.2))
    records.put(record("none", 1, 0.3, 0.4, minutes=2.5))
    assert len(path.read_text().splitlines()) == 2
    assert [path] == list(tmp_path.iterdir())  # nothing temporary is left
    again = Records(path)
    assert [one.seed for one in again.of("none")] == [0, 1]
    assert again.get("none", 1) == records.get("none", 1) == record("none", 1, 0.3, 0.4, minutes=2.5)
    assert again.get("QC", 0) is None


def test_result_at_takes_the_first_gallery():
    results = {"search": {"G100": {"mAP": 0.5}, "G50": {"mAP": 0.6}}, "detection": {"AP": 1}, "mode": "oc"}
    assert result_at(results, "search/*/mAP") == 0.5
    assert result_at(results, "search/G50/mAP") == 0.6
    assert result_at(results, "detection/AP") == 1.0
    for path in ("search/*/top1", "true_boxes/*/mAP", "mode", "mode/*"):
        with pytest.raises(ConfigError, match="the results have no number at"):
            result_at(results, path)


def test_ladder_is_drawn_once_there_are_numbers(records, tmp_path):
    assert ladder_curve(TABLE, Records(tmp_path / "none.jsonl")) is None
    assert ladder_curve(TABLE, records).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": (Row("a b", "x.py"), Row("a/b", "x.py"))}, "have names too much alike"),
        ({"rows": (Row("a", "x.py", after="b"), Row("b", "x.py"))}, "'b', which is no earlier row"),
        ({"rows": (Row("a", "x.py", ("--config.p={after}",)),)}, "names no row `after`"),
        ({"rows": (Row("a", "x.py", paper={"A": {"top": 1.0}}),)}, "'top' of A; the metrics are mAP, AP"),
        ({"contrasts": (("QC", "SC"),)}, "'SC' is compared, but there is no such row"),
        ({"ladder": Ladder("t", "n", {}, "none", ("top",))}, "draws 'top'"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changes, message):
    parts = {"title": "t", "source": "s", "rows": TABLE.rows, "metrics": METRICS}
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        Table(**parts | changes)
