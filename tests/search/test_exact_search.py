"""Exact search agrees with a plain sort, by numpy and by JAX, with ties, masks and few rows."""

import numpy as np
import pytest

from ps_jax.search import exact
from ps_jax.search.exact import ExactSearch


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK", 64)
    exact._best.clear_cache()
    yield
    exact._best.clear_cache()


def expected(feature, vector, count, allowed):
    product = (feature @ vector).astype(np.float32)
    rows = np.lexsort((np.arange(len(feature)), -product))
    rows = rows[allowed[rows]][:count]
    return product[rows], rows


@pytest.mark.parametrize("queries", [1, 4, 5, 40], ids="{} queries".format)
@pytest.mark.parametrize("rows", [1, 64, 300], ids="{} rows".format)
@pytest.mark.parametrize("count", [1, 7, 60], ids="{} wanted".format)
def test_agrees_with_a_sort(queries, rows, count):
    rng = np.random.default_rng(queries + rows)
    # Small whole numbers: products are exact in any order of summing, and there are many ties.
    feature = rng.integers(-3, 4, (rows, 8)).astype(np.float32)
    vectors = rng.integers(-3, 4, (queries, 8)).astype(np.float32)
    search = ExactSearch(feature)
    for allowed in (np.ones(rows, bool), rng.uniform(size=rows) < 0.3):
        found = search.search(vectors, count, allowed)
        assert len(found) == queries
        for vector, (product, row) in zip(vectors, found, strict=True):
            best, numbers = expected(feature, vector, count, allowed)
            np.testing.assert_array_equal(row, numbers)
            np.testing.assert_array_equal(product, best)
    np.testing.assert_array_equal(
        search.search(vectors, count)[0][1], expected(feature, vectors[0], count, np.ones(rows, bool))[1]
    )


def test_an_empty_gallery_has_no_answers():
    search = ExactSearch(np.zeros((0, 8), np.float32))
    for queries in (1, 9):
        found = search.search(np.ones((queries, 8), np.float32), 5)
        assert [len(row) for _, row in found] == [0] * queries


def test_more_wanted_than_a_block_holds():
    feature = np.random.default_rng(0).integers(-3, 4, (200, 8)).astype(np.float32)
    found = ExactSearch(feature).search(feature[:6], 150)
    for vector, (_, row) in zip(feature[:6], found, strict=True):
        np.testing.assert_array_equal(row, expected(feature, vector, 150, np.ones(200, bool))[1])
