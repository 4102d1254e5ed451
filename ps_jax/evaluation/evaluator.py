"""Evaluates a system on a data set: detection, search in every asked gallery, pictures and a page."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import ps_jax
from input_pipeline.scenes import UNKNOWN, Query, Split
from ps_jax.errors import ConfigError
from ps_jax.evaluation.cbgm import ContextMatching, context_features
from ps_jax.evaluation.cbgm_grid import grid_entry
from ps_jax.evaluation.detection import DetectionResult, evaluate_detection
from ps_jax.evaluation.inference import (
    CompiledSystem,
    Findings,
    FoundByQuery,
    SideBySide,
    run_object_centric,
    run_query_centric,
)
from ps_jax.evaluation.protocols import SearchTask, gallery_names, search_task
from ps_jax.evaluation.reid import evaluate_reid
from ps_jax.evaluation.report import format_table, write_report
from ps_jax.evaluation.search import SearchResult, evaluate_search, similarity_rows
from ps_jax.evaluation.settings import Settings
from ps_jax.evaluation.similarity import gallery_features, unit_rows
from ps_jax.evaluation.table import DetectionTable

Answers = Iterator[tuple[DetectionTable, np.ndarray]]


@dataclass(frozen=True, eq=False)
class _Case:
    """Everything known while a result is made; `system` has the options of the evaluation.

    `branches` is how many embeddings lie side by side in one of the findings'.
    """

    system: Any
    branches: int
    split: Split
    settings: Settings
    tasks: tuple[SearchTask, ...]
    queries: tuple[Query, ...]
    numbers: Mapping[Query, int]
    findings: Findings
    by_query: FoundByQuery | None


def evaluate(
    system: Any,
    variables: Any,
    source: Any,
    config: ConfigDict | Mapping[str, Any],
    out_dir: str | Path | None,
    *,
    partition: str = "test",
    provenance: Mapping[str, Any] | None = None,
    detector: tuple[Any, Any] | None = None,
    beside: tuple[Any, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates a system and writes `results.json`, pictures and `index.html`.

    Where the pictures are people who were cut out already, see `ps_jax.evaluation.reid.evaluate_reid`.

    Args:
      system: a `ps_jax.systems.System`; its score threshold gives way to those of `config`,
        see `Settings.system_threshold`.
      variables: its variables.
      source: the data, see `input_pipeline.open_source`: `split(partition)` and `scene_batches(...)`.
      config: `config.eval`, see `Settings`.
      out_dir: where to write; None writes nothing.
      partition: which partition to evaluate.
      provenance: what made the variables (checkpoint step, hash of the configuration, ...), kept in the
        result.
      detector: another system and its variables, whose detections the first one embeds in place of its own.
      beside: another system and its variables, whose embeddings of the same boxes lie beside the first one's.

    Returns:
      The results: "search" (mAP, top1, top5, top10 by gallery), "search_true_boxes", "search_cbgm" and
      "search_cbgm_grid" (by pair of k1 and k2) where asked for, "detection" (recall, AP), "sizes" (galleries
      of the same queries by size), "settings" and "versions".

    Raises:
      PersonSearchError: options, data or weights are not as they should be.
    """
    if source.split(partition).is_cut_out:
        return evaluate_reid(
            system, variables, source, config, out_dir, partition, _versions() | dict(provenance or {})
        )
    case = _case(system, variables, source, config, partition, detector, beside)
    split, settings, tasks = case.split, case.settings, case.tasks
    detections = _detection(case)
    searches = {task.name: evaluate_search(task, _answers(case, task), settings.iou) for task in tasks}
    results: dict[str, Any] = {
        "dataset": split.dataset,
        "partition": partition,
        "search": {task.name: _search_numbers(task, searches[task.name]) for task in tasks},
    }
    if settings.context:
        results["search_cbgm"] = {
            task.name: _searched(case, task, _answers(case, task, settings.context)) for task in tasks
        }
    if settings.context_grid:
        results["search_cbgm_grid"] = {
            task.name: dict(
                grid_entry(matching, _searched(case, task, _answers(case, task, matching)))
                for matching in settings.context_grid.matchings
            )
            for task in tasks
        }
    if settings.true_boxes:
        results["search_true_boxes"] = {
            task.name: _searched(case, task, _true_box_answers(case, task)) for task in tasks
        }
    results["detection"] = _detection_numbers(case, detections)
    results["sizes"] = _galleries_by_size(tasks)
    results["settings"] = settings.printed | {"branches": case.branches} | _model_settings(case.system)
    results["versions"] = _versions() | dict(provenance or {})
    print(format_table(results))
    if out_dir is not None:
        first = _default_task(case)
        write_report(
            Path(out_dir),
            results,
            source=source,
            split=split,
            task=first,
            search=searches[first.name],
            detection=detections["all"],
            pictures=settings.pictures,
        )
    return results


def default_search(
    system: Any,
    variables: Any,
    source: Any,
    config: ConfigDict | Mapping[str, Any],
    *,
    partition: str = "test",
) -> tuple[Split, SearchTask, SearchResult]:
    """How every query of the default gallery went, where `evaluate` gives the means.

    Args:
      system, variables, source, config, partition: see `evaluate`.

    Returns:
      The records, the task, and its rankings.

    Raises:
      PersonSearchError: options, data or weights are not as they should be.
    """
    case = _case(system, variables, source, config, partition)
    task = _default_task(case)
    return case.split, task, evaluate_search(task, _answers(case, task), case.settings.iou)


def _case(
    system: Any,
    variables: Any,
    source: Any,
    config: ConfigDict | Mapping[str, Any],
    partition: str,
    detector: tuple[Any, Any] | None = None,
    beside: tuple[Any, Any] | None = None,
) -> _Case:
    """Runs the system over the scenes; arguments as of `evaluate`."""
    settings = Settings.of(config)
    if settings.mode == "auto":
        settings = replace(settings, mode=system.search_mode)
    if settings.mode == "qc" and not hasattr(system.module, "find"):
        raise ConfigError('eval.mode: this system has no query-centric search; use "oc"')
    for name in settings.model.keys() - set(system.test_options):
        raise ConfigError(
            f"eval.model.{name}: {system.name} has no such option for testing; there are "
            f"{', '.join(system.test_options)}"
        )
    if not system.embeds_given_boxes and (settings.true_boxes or detector is not None):
        raise ConfigError(
            f"{system.name} embeds its own boxes alone, neither annotated ones nor those of another detector; use "
            "--no-true_boxes, and no --detector"
        )
    system = system.changed(score_threshold=_threshold(settings, system), **settings.model)
    split = source.split(partition)
    tasks = tuple(
        search_task(split, name, cross_camera=settings.cross_camera, min_frame_gap=settings.min_frame_gap)
        for name in gallery_names(split, settings.galleries)
    )
    queries = tuple(dict.fromkeys(query for task in tasks for query in task.queries))
    numbers = {query: number for number, query in enumerate(queries)}
    compiled = CompiledSystem(system, variables)
    if settings.mode == "qc" and (detector is not None or beside is not None):
        raise ConfigError(
            "a detector of its own, or embeddings beside, go with detections that need no query: use eval.mode "
            '"oc"'
        )
    pair = None if beside is None else SideBySide(compiled, CompiledSystem(*beside))
    other = None
    if detector is not None:
        other = CompiledSystem(
            detector[0].changed(score_threshold=_threshold(settings, detector[0])), detector[1]
        )
    findings = run_object_centric(
        pair or compiled,
        source,
        split,
        queries,
        query_rule=settings.query,
        true_boxes=settings.true_boxes,
        batch_size=settings.batch_size,
        detect=settings.mode == "oc",
        detector=other,
    )
    by_query = None
    if settings.mode == "qc":
        by_query = run_query_centric(
            compiled,
            source,
            split,
            findings,
            _relevant_queries(split, tasks, numbers),
            similarity=settings.similarity,
            score_threshold=settings.least_score,
            batch_size=settings.batch_size,
            query_chunk=settings.query_chunk,
        )
    branches = (pair or compiled).branches
    return _Case(system, branches, split, settings, tasks, queries, numbers, findings, by_query)


def _threshold(settings: Settings, system: Any) -> float:
    return settings.system_threshold(settings.least_score, system.module.score_threshold)


def _default_task(case: _Case) -> SearchTask:
    """The search in the default gallery, or in the first one where that was not asked for."""
    return next((task for task in case.tasks if task.name == case.split.default_gallery), case.tasks[0])


def _model_settings(system: Any) -> dict[str, Any]:
    """The options of a system's module that change what it finds, as far as it has them."""
    module = system.module
    found = {name: getattr(module, name) for name in system.test_options}
    if hasattr(module, "dtype"):
        found["precision"] = np.dtype(module.dtype or np.float32).name
    return found


def check_evaluation(source: Any, config: ConfigDict | Mapping[str, Any], *, partition: str = "test") -> None:
    """Checks that an evaluation can begin, before a training that would end in it.

    Raises:
      PersonSearchError: an option is unknown, the partition is missing or has no such gallery.
    """
    settings = Settings.of(config)
    gallery_names(source.split(partition), settings.galleries)


def _relevant_queries(
    split: Split, tasks: Sequence[SearchTask], numbers: Mapping[Query, int]
) -> list[np.ndarray]:
    """For each scene, the numbers of the queries that have it in a gallery."""
    relevant = np.zeros((len(split.scenes), len(numbers)), bool)
    for task in tasks:
        for query, items in zip(task.queries, task.items, strict=True):
            relevant[items.scene, numbers[query]] = True
    return [np.flatnonzero(row) for row in relevant]


def _answers(case: _Case, task: SearchTask, context: ContextMatching | None = None) -> Answers:
    """For each query of a task its table and similarities."""
    settings = case.settings
    numbers = [case.numbers[query] for query in task.queries]
    if case.by_query is not None:
        for number in numbers:
            table, similarity = case.by_query.tables[number], case.by_query.similarities[number]
            keep = table.score >= np.float32(settings.score_threshold)
            yield table.above(settings.score_threshold), similarity[keep]
        return
    table = case.findings.detections.above(settings.score_threshold)
    feature = gallery_features(table.embedding, table.score, settings.similarity, case.branches)
    vectors = unit_rows(case.findings.queries[numbers], case.branches)
    rows = similarity_rows(vectors, feature)
    for query, items, vector, row in zip(task.queries, task.items, vectors, rows, strict=True):
        if context is not None:
            place = case.split.positions[query.scene]
            around = context_features(vector, query.box, table, place, context.k2, case.branches)
            row = context.rematch(items, table, row, feature, around)
        yield table, row


def _true_box_answers(case: _Case, task: SearchTask) -> Answers:
    """As `_answers`, for the annotated boxes in place of detections; their score is 1."""
    table = case.findings.people
    vectors = unit_rows(case.findings.queries[[case.numbers[query] for query in task.queries]], case.branches)
    for row in similarity_rows(vectors, unit_rows(table.embedding, case.branches)):
        yield table, row


def _detection(case: _Case) -> dict[str, DetectionResult]:
    """Detection counted over all annotated boxes, and over those of known identity ("labelled").

    A query-centric search is counted over the pairs of a query and a scene that shows the query's person.
    """
    threshold = case.settings.detection_threshold
    if case.by_query is not None:
        return {"all": evaluate_detection(_pairs(case, case.by_query), threshold)}
    table = case.findings.detections
    everybody, labelled = [], []
    for position, scene in enumerate(case.split.scenes):
        rows = table.rows(position)
        boxes, known = scene.boxes.astype(np.float64), scene.identities != UNKNOWN
        everybody.append((boxes, table.box[rows], table.score[rows]))
        if known.any():
            labelled.append((boxes[known], table.box[rows], table.score[rows]))
    return {
        "all": evaluate_detection(everybody, threshold),
        "labelled": evaluate_detection(labelled, threshold),
    }


def _pairs(case: _Case, found: FoundByQuery) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(true box, boxes, scores) of each pair of a query and a scene with its person, once over all tasks."""
    done: set[tuple[int, int]] = set()
    for task in case.tasks:
        for query, items in zip(task.queries, task.items, strict=True):
            number = case.numbers[query]
            table = found.tables[number]
            for scene, box in zip(items.scene[items.positive], items.box, strict=True):
                if (number, int(scene)) not in done:
                    done.add((number, int(scene)))
                    rows = table.rows(int(scene))
                    yield box[None], table.box[rows], table.score[rows]


def _searched(case: _Case, task: SearchTask, answers: Answers) -> dict[str, Any]:
    return _search_numbers(task, evaluate_search(task, answers, case.settings.iou))


def _search_numbers(task: SearchTask, result: SearchResult) -> dict[str, Any]:
    answerable = result.answerable
    numbers = {
        "mAP": result.mean_average_precision,
        **{f"top{k}": value for k, value in result.top.items()},
        "queries": len(task.queries),
        "scenes": task.size,
        "gallery": task.rule,
    }
    # The protocols count a query without anybody to find as 0. Options that leave scenes out make many such
    # queries, so the mean over the others stands beside.
    if len(answerable.rankings) < len(task.queries):
        numbers["answerable"] = {
            "queries": len(answerable.rankings),
            "mAP": answerable.mean_average_precision,
            **{f"top{k}": value for k, value in answerable.top.items()},
        }
    return numbers


def _galleries_by_size(tasks: Sequence[SearchTask]) -> list[str]:
    """Names of the galleries that differ in nothing but their size, smallest first; the most there are."""
    same: dict[tuple[Query, ...], list[SearchTask]] = {}
    for task in tasks:
        same.setdefault(task.queries, []).append(task)
    most = max(same.values(), key=lambda group: len(group))
    return [task.name for task in sorted(most, key=lambda task: task.size)]


def _detection_numbers(case: _Case, detections: Mapping[str, DetectionResult]) -> dict[str, Any]:
    result = detections["all"]
    numbers = {"recall": result.recall, "AP": result.ap, "RAP": result.rap}
    if "labelled" in detections:
        numbers |= {
            "labelled_recall": detections["labelled"].recall,
            "labelled_AP": detections["labelled"].ap,
        }
    counted = "pairs of query and scene with the person" if case.by_query is not None else "annotated boxes"
    return numbers | {"people": result.people, "detections": len(result.score), "over": counted}


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("jax", "flax", "numpy")}
    device = jax.local_devices()[0].device_kind
    return {"ps_jax": ps_jax.__version__, **packages, "python": platform.python_version(), "device": device}
