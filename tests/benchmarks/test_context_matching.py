"""The made-up searches that context matching is timed on."""

import numpy as np
import pytest

from benchmarks import context_matching
from ps_jax.evaluation.cbgm import ContextMatching, context_features
from ps_jax.evaluation.search import rank, similarity_rows
from ps_jax.evaluation.similarity import gallery_features


def test_made_up_detections_are_what_they_stand_for():
    made = context_matching.made_up(size=100, queries=8)
    counts = np.diff(made.table.start)
    assert len(counts) == 108 and counts.min() >= 3 and counts.max() <= 9
    assert 5 < counts.mean() < 7
    assert made.table.embedding.shape[1] == 256
    feature = gallery_features(made.table.embedding, made.table.score, "score_cosine")
    changed = 0
    for number, row in enumerate(similarity_rows(made.vectors, feature)):
        items = made.items[number]
        assert rank(items, made.table, row, "variable").ap > 0.9  # the queries' people are there to be found
        context = context_features(made.vectors[number], made.boxes[number], made.table, number, 3)
        assert len(context) == 3
        changed += int(
            (ContextMatching(10, 3).rematch(items, made.table, row, feature, context) != row).sum()
        )
    assert changed >= 8 * 3  # the matching has work to do


def test_table(capsys):
    assert context_matching.main(["--sizes", "20,40", "--queries", "4", "--rounds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "k1=10 k2=3 candidates=detections" in lines[2]
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| 20", "| 40"]
    with pytest.raises(SystemExit):
        context_matching.main(["--candidates", "people"])
