"""The training loop: from a configuration and a work directory to a trained state.

A work directory holds `config.json`, `metrics.jsonl`, `evaluation/` and one directory for each phase with
`checkpoints/` (the newest), `best/` (the best of the periodic evaluations) and TensorBoard files. The same
command goes on where a run ended, whatever ended it: the data are a pure function of (seed, step), random
numbers one of (key, step), so on CPU the result is the uninterrupted run's bit for bit.

Where several processes train together (`ps_jax.training.processes`), all go through the same steps; the work
directory belongs to the first.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from ps_jax.errors import ConfigError
from ps_jax.training.checkpoints import Checkpoints, has_checkpoints
from ps_jax.training.finite import check_finite, check_finite_state
from ps_jax.training.gates import check_gates
from ps_jax.training.interruption import Interruption
from ps_jax.training.metric_writers import BEFORE, MetricWriter, first_result
from ps_jax.training.phases import (
    Phase,
    check_phases,
    compute_dtype,
    micro_batches,
    model_arguments,
    prepare_phase,
)
from ps_jax.training.pretrained import (
    Pretrained,
    ReidStart,
    load_pretrained,
    load_reid_start,
    people_of,
    trained_before,
)
from ps_jax.training.processes import (
    StopAgreement,
    all_devices,
    first_then_others,
    is_first,
    on_first,
    state_of_first,
)
from ps_jax.training.progress import Progress
from ps_jax.training.state import TrainState
from ps_jax.training.step import on_one_device, replicate
from ps_jax.training.workdir import claim_workdir, plain_config, provenance

BEST_BY = "mAP"  # the first result of this name decides which checkpoint is the best


@dataclass(frozen=True)
class _Run:
    """What all phases of a run share."""

    config: ConfigDict
    workdir: Path
    source: Any
    evaluate: Callable[..., dict] | None
    devices: list[jax.Device]
    interruption: Interruption


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    source: Any = None,
    build: Callable[..., Any] | None = None,
    evaluate: Callable[..., dict] | None = None,
) -> TrainState:
    """Trains all phases of a configuration, or what is left of them, and evaluates the result.

    SIGTERM and SIGINT finish the running step, save, and leave with SystemExit 143 and 130.

    Args:
      config: the whole configuration.
      workdir: where everything is written; a run that was ended goes on from what is there.
      source: where batches come from; None opens the one that `config.data` describes.
      build: (name, keyword arguments) -> system; None takes `ps_jax.systems.build_system`.
      evaluate: (system, variables, source, config.eval, directory, provenance=...) -> results; None takes
        `ps_jax.evaluation.evaluate`, whose options are checked before training, and evaluates nothing where the
        test partition has no queries.

    Returns:
      The state at the end of the last phase.

    Raises:
      ConfigError: the configuration cannot run here, or the work directory belongs to another one.
      CheckpointError: no checkpoint can be read, or it belongs to another model.
      TrainingError: a loss is not finite, or the state could not be saved.
    """
    # Data, systems and evaluation
    devices = all_devices()
    check_phases(config, len(devices))
    if source is None:
        from input_pipeline import open_source

        source = first_then_others(lambda: open_source(config.data))
    if build is None:
        from ps_jax.systems import build_system

        build = build_system
    train = source.split("train")  # missing data are told of before anything is written
    if evaluate is None:
        from ps_jax.evaluation import check_evaluation
        from ps_jax.evaluation import evaluate as evaluate_system

        test = source.split("test")
        if test.galleries:
            check_evaluation(source, config.eval)
            evaluate = evaluate_system
        else:
            for name in config.phases:
                if any(least > 0 for least in (config[name].get("gates") or {}).values()):
                    raise ConfigError(
                        f"{name}.gates: {test.dataset} {test.partition} has no queries, so nothing is evaluated and "
                        "no gate can be checked; give the data queries, or demand nothing: "
                        f"--config.{name}.gates.<name>=0"
                    )
            logging.info("%s %s: no queries, so nothing is evaluated", test.dataset, test.partition)

    workdir = Path(workdir).absolute()
    people = people_of(train)
    # Both in the first process, which alone begins with them
    pretrained: Pretrained | None = None
    reid: ReidStart | None = None

    def open_workdir() -> int:
        nonlocal pretrained, reid
        # The last phase with a checkpoint goes on, or is found finished; the later ones follow.
        started = [name for name in config.phases if has_checkpoints(workdir / name / "checkpoints")]
        if not started:
            systems = [
                build(config.system, model_arguments(config, name, train.num_identities))
                for name in config.phases
            ]
            if config.get("pretrained"):
                pretrained = load_pretrained(config, build, compute_dtype(config.precision))
            if config.get("reid_weights"):
                reid = load_reid_start(config, systems[0], people)
            trained = trained_before(pretrained, reid)
            for system in systems:  # the last phase is told of what it will lack before the first one trains
                system.check_start(trained, people)
                trained |= dict.fromkeys(system.trains, people)
        claim_workdir(workdir, config, any(map(has_checkpoints, workdir.glob("*/checkpoints"))))
        return list(config.phases).index(started[-1]) if started else 0

    first = on_first(open_workdir)
    state: TrainState | None = None
    with Interruption() as interruption:
        run = _Run(config, workdir, source, evaluate, devices, interruption)
        for index in range(first, len(config.phases)):
            phase = prepare_phase(config, index, source, build, devices)
            state, origin, trained = _train(run, phase, pretrained, reid, people)
            pretrained = Pretrained(f"phase {phase.name}", phase.system, state.variables, origin, trained)
            reid = None  # later phases have the first's
    assert state, "check_phases lets no empty list of phases through"
    return state


def _train(
    run: _Run, phase: Phase, pretrained: Pretrained | None, reid: ReidStart | None, people: str
) -> tuple[TrainState, dict[str, Any] | None, dict[str, str]]:
    """Trains one phase from where it stands to its end.

    Returns:
      The state, what other run it comes from, and its parts that are trained, see `System.check_start`.
    """
    from input_pipeline import prefetch_to_devices

    config, settings, total = run.config, phase.settings, phase.total_steps
    directory = run.workdir / phase.name
    with contextlib.ExitStack() as stack:
        # Only the first process keeps anything; elsewhere these are None.
        checkpoints = stack.enter_context(Checkpoints(directory / "checkpoints")) if is_first() else None

        def start() -> tuple[TrainState, dict[str, Any]]:
            # Where the state comes from, the first that there is:
            #   1. a checkpoint of this phase in the work directory,
            #   2. the end of the previous phase, or of the run that config.pretrained names, as the system
            #      transfers it,
            #   3. the trunk weights that config.weights names,
            #   4. scratch;
            # in the first phase the re-identification network of RDLR comes from config.reid_weights, if that is set.
            restored = checkpoints.restore(phase.template) if checkpoints else None
            if restored:
                made = restored[1]
                note = {"origin": made.get("pretrained"), "trained": made.get("trained", {})}
                return restored[0], {"restored": True, **note}
            note = {
                "origin": pretrained.origin if pretrained else None,
                "trained": trained_before(pretrained, reid) | dict.fromkeys(phase.system.trains, people),
            }
            return phase.start(config.weights, pretrained, reid), {"restored": False, **note}

        state, note = state_of_first(start, phase.template)
        restored, origin, trained = note["restored"], note["origin"], note["trained"]
        step = int(state.step)
        saved = step if restored else None
        devices = [device for device in run.devices if device.process_index == jax.process_index()]
        state = replicate(state, devices)
        logging.info("%s: at step %d of %d", phase.name, step, total)

        meta = {
            "phase": phase.name,
            "phase_index": phase.index,
            "total_steps": total,
            "seed": config.seed,
            "system": config.system,
            "model": phase.arguments,
            "config": plain_config(config),
            "pretrained": origin,
            "trained": trained,
        }
        unseen: list[dict[str, jax.Array]] = []  # metrics of the last steps, on the devices
        marked_step, marked_time = step, time.monotonic()
        host_batches = run.source.train_batches(
            settings, config.seed, step, jax.process_index(), jax.process_count()
        )
        batches = stack.enter_context(
            prefetch_to_devices(host_batches, devices, micro_batches=micro_batches(settings))
        )
        writer = (
            # A phase that begins anew is evaluated anew: what lies there may be of another start.
            stack.enter_context(
                MetricWriter(run.workdir, config.phases, phase.name, step if restored else BEFORE)
            )
            if is_first()
            else None
        )
        progress = stack.enter_context(Progress(phase.name, step, total, shown=is_first()))
        agreement = StopAgreement(phase.step, run.interruption)
        while True:
            finished, stopped = step == total, agreement.stopped()
            last = finished and phase.name == config.phases[-1]
            gated = step == 0 and bool(settings.get("gates"))
            evaluates = bool(run.evaluate) and (last or gated or _due(settings.evaluate_every, step))
            saves = finished or evaluates or stopped or _due(settings.checkpoint_every, step)
            logs = finished or step == 1 or _due(settings.log_every, step)

            # Look at the values of the last steps, before anything of them is kept
            if checkpoints and writer and unseen and (logs or saves):
                for earlier, measured in zip(
                    range(step - len(unseen), step), jax.device_get(unseen), strict=True
                ):
                    values = {name: float(value) for name, value in measured.items()}
                    check_finite(phase.name, earlier + 1, values, checkpoints.last_good)
                unseen.clear()
                if logs:
                    checkpoints.check()
                    rate = (step - marked_step) / (time.monotonic() - marked_time)
                    marked_step, marked_time = step, time.monotonic()
                    writer.write(step, values | {"steps_per_second": rate})
                    progress.show(step, values, rate)

            # Save
            if checkpoints and saves and step != saved and (step or finished):
                check_finite_state(phase.name, step, state.variables, checkpoints.last_good)
                checkpoints.save(state, meta)
                saved = step
            if stopped:
                if checkpoints:
                    checkpoints.wait()
                logging.warning(
                    "%s: stopped by %s after step %d of %s; the same command goes on from there",
                    *(run.workdir, stopped.name, step, phase.name),
                )
                raise SystemExit(128 + stopped)

            # Evaluate, after the save, so that a run that is ended meanwhile loses nothing
            if evaluates:
                began = time.monotonic()
                evaluate = functools.partial(_evaluate, run, phase, state, meta, checkpoints, writer)
                on_first(evaluate, run.interruption)
                if gated:
                    on_first(
                        functools.partial(check_gates, phase.name, writer, dict(settings.gates)),
                        run.interruption,
                    )
                marked_time += time.monotonic() - began  # does not count as training
            if finished:
                return state, origin, trained

            # One step
            state, metrics = phase.step(state, next(batches), run.interruption.received or 0)
            if writer:
                unseen.append(metrics)
            step += 1
            progress.advance()


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _evaluate(
    run: _Run,
    phase: Phase,
    state: TrainState,
    meta: Mapping[str, Any],
    checkpoints: Checkpoints | None,
    writer: MetricWriter | None,
) -> None:
    """Evaluates the state, unless that is on record, and keeps it if it is the best of the phase so far."""
    assert checkpoints and writer and run.evaluate, (
        "only the first process evaluates, and only where there is what to"
    )
    step = int(state.step)
    if writer.evaluated(step):
        return
    checkpoints.wait()
    with run.interruption.leaves_at_once():
        directory = run.workdir / "evaluation" / f"{phase.name}-{step}"
        results = run.evaluate(
            phase.system,
            on_one_device(state.variables),
            run.source,
            run.config.eval.to_dict(),
            directory,
            provenance=provenance({**meta, "step": step}),
        )
        scalars = _scalars(results)
        score = first_result(scalars, BEST_BY)
        if phase.settings.evaluate_every and score is not None and score > writer.best_evaluation(BEST_BY):
            with Checkpoints(run.workdir / phase.name / "best", keep=1) as best:
                best.drop_from(step)  # of a run that was further than the one that goes on now
                best.save(state, {**meta, BEST_BY: score})
        writer.write_evaluation(step, scalars)
        logging.info("evaluation written to %s", directory)


def _scalars(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers in nested results, by their path."""
    scalars: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            scalars |= _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            scalars[f"{prefix}{name}"] = float(value)
    return scalars
