"""The command line of a sweep, and that every table's rows have configurations which take their options."""

import importlib
import shlex
from pathlib import Path

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from configs import datasets, spnet_base
from ps_jax.errors import ConfigError
from ps_jax.evaluation.options import parse_arguments
from ps_jax.sweep import load_table
from ps_jax.sweep.__main__ import main, parse_sweep
from ps_jax.systems import build_system
from ps_jax.training.phases import model_arguments

ROOT = Path(__file__).parents[2]
TABLES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs" / "tables").glob("*.py")
    if "def get_table" in path.read_text()
)


def configuration(place, *changes):
    """The configuration of a file as train.py reads it, with the command line's changes."""
    path, _, dataset = place.partition(":")
    config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config(dataset)
    values = flags.FlagValues()
    command = ["train.py", *changes]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
    assert values(command)[1:] == []
    return values.config


# Of a table at the paper's size every model is put together: seconds each.
PRW = pytest.param("prw", marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_options_and_defaults(tmp_path):
    weights = tmp_path / "trunk.npz"
    weights.touch()
    sweep, only_list = parse_sweep(
        [
            *("configs/tables/spnet_table8.py:prw", "--weights", str(weights), "--config.data.dir=x y"),
            *("--only", "QC-FT", "OC-FT", "--seeds", "2", "--list"),
        ]
    )
    assert only_list and sweep.out == Path("runs/sweeps/spnet_table8_prw")
    assert [(row.name, seed) for row, seed in sweep.runs()] == [
        *(("OC-FT", 0), ("QC-FT", 0)),
        *(("OC-FT", 1), ("QC-FT", 1)),
    ]
    arguments = sweep.run_arguments(sweep.table.row("QC-FT"), 1)
    assert arguments == (
        *("--config", "configs/spnet_qc_finetune.py:prw", "--config.seed=1", f"--config.weights={weights}"),
        *("--config.data.dir=data/prw", "--config.phases=('finetune',)", "--config.data.dir=x y"),
    )
    assert shlex.split(sweep.command)[-1] == "--list"
    sweep, only_list = parse_sweep(["configs/tables/spnet_qc_oc_none.py"])
    assert (sweep.out, sweep.seeds, only_list) == (Path("runs/sweeps/spnet_qc_oc_none"), 3, False)


def test_what_networks_of_rdlr_start_from_does_not_replace_them_in_the_refinement(tmp_path):
    network = tmp_path / "osnet.onnx"
    network.touch()
    sweep, _ = parse_sweep(["configs/tables/rdlr_table5.py", "--reid_weights", str(network)])
    before, after = (sweep.run_arguments(sweep.table.row(name), 0) for name in ("networks", "softmax"))
    told = [[argument for argument in run if "reid_weights" in argument] for run in (before, after)]
    assert told == [
        [f"--config.reid_weights={network}"],
        [f"--config.reid_weights={network}", "--config.reid_weights="],
    ]
    sweep, _ = parse_sweep(["configs/tables/rdlr_figure5.py", "--reid_weights", str(network)])
    other = next(
        row for row in sweep.table.rows if not row.config.startswith("configs/rdlr") and not row.evaluation
    )
    assert not any("reid_weights" in argument for argument in sweep.run_arguments(other, 0))
    with pytest.raises(ConfigError, match=r"alignps_table1\.py has no row of RDLR"):
        parse_sweep(["configs/tables/alignps_table1.py", "--reid_weights", str(network)])
    assert "--config.weights=" in after and "--config.phases=('refine',)" in after


def test_list_prints_commands_and_runs_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["configs/tables/spnet_table8.py", "--list", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "OC-FT, seed 0: not run yet\n    train.py --workdir runs/sweeps/runs/spnet_qc_streets-" in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/tables/none.py"], "configs/tables/none.py: there is no such file"),
        (["configs/spnet_qc.py"], "configs/spnet_qc.py: has no get_table"),
        (["configs/tables/spnet_table8.py:nowhere"], "there is no data set 'nowhere'"),
        (
            ["configs/tables/spnet_table8.py", "--only", "QC"],
            "there is no row 'QC'; the rows are QC pre-training, OC-FT, ",
        ),
        (["configs/tables/spnet_table8.py", "--sed=3"], "unknown argument --sed=3"),
        (["configs/tables/spnet_table8.py", "--seeds", "0"], "--seeds is 0"),
        (
            ["configs/tables/spnet_table8.py:prw", "--config.data.dir=x"],
            "--config.data.dir=x would change every row, but these are trained on coco_persons and prw",
        ),
        (
            ["configs/tables/spnet_table8.py", "--weights", "none.npz"],
            "--weights none.npz: there is no such file",
        ),
        (
            ["configs/tables/rdlr_table5.py", "--reid_weights", "none.onnx"],
            "--reid_weights none.onnx: there is no such file or directory",
        ),
    ],
)
def test_unknown_names_are_the_users_to_mend(arguments, message):
    with pytest.raises(ConfigError) as error:
        parse_sweep(arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("dataset", ["streets", PRW])
@pytest.mark.parametrize("path", [path for path in TABLES if "seqnet" in path])
def test_every_row_of_seqnet_takes_its_options(path, dataset):
    table = load_table(f"{path}:{dataset}")
    assert len(table.rows) > 1
    small = dataset in datasets.SMALL
    for row in table.rows:
        assert row.config.endswith(f":{dataset}")
        if row.evaluation:
            changes = [change for change in row.overrides if change.startswith("--config.")]
            assert configuration(row.config, *changes).system == "seqnet"
            parse_arguments("", ["--workdir", "runs/x", *row.overrides])
            assert not table.row(row.after).evaluation
        else:
            config = configuration(row.config, "--config.seed=7", *row.overrides)
            assert (config.seed, config.phases) == (7, ("train",))
            if small:
                assert (config.train.epochs, config.train.milestones) == (1.0, (0.8,))
            else:
                assert config.data.dir == f"data/{dataset}" and config.train.milestones == (16.0,)
            arguments = model_arguments(config, "train", num_identities=3)
            assert build_system(config.system, arguments).template["params"]


@pytest.mark.parametrize("dataset", ["streets", PRW])
@pytest.mark.parametrize("path", [path for path in TABLES if "/alignps_" in path])
def test_every_row_of_alignps_takes_its_options(path, dataset):
    table = load_table(f"{path}:{dataset}")
    small = dataset in datasets.SMALL
    models = []
    for row in table.rows:
        assert row.config.endswith(f":{dataset}")
        assert set(row.paper) == {"CUHK-SYSU", "PRW"} or "figure6" in path
        config = configuration(row.config, "--config.seed=7", *row.overrides)
        assert (config.seed, config.phases, config.train.epochs) == (7, ("train",), 1.0 if small else 24.0)
        assert small or config.data.dir == f"data/{dataset}"
        system = build_system(config.system, model_arguments(config, "train", num_identities=3))
        models.append(
            (config.model.to_dict(), jax.tree.map(lambda leaf: leaf.shape, system.template["params"]))
        )
    for index, (options, shapes) in enumerate(models):
        assert all(options != other for other, _ in models[:index]), table.rows[index].name
        if path.endswith(("table2.py", "table5.py")):  # what these vary is in the parameters, too
            assert all(shapes != other for _, other in models[:index]), table.rows[index].name


def test_alignps_as_it_is_is_the_same_run_in_all_tables():
    names = {1: "P3", 2: "lateral, output, concatenation", 3: "AlignPS", 4: "TOIM with LUT"}
    runs = {
        (row.config, row.overrides)
        for number, name in names.items()
        for row in [load_table(f"configs/tables/alignps_table{number}.py:cuhk_sysu").row(name)]
    }
    assert runs == {("configs/alignps.py:cuhk_sysu", ("--config.data.dir=data/cuhk_sysu",))}


@pytest.mark.parametrize("dataset", ["streets", "prw"])
@pytest.mark.parametrize("path", [path for path in TABLES if "spnet" in path])
def test_the_configuration_of_every_row_takes_its_options(path, dataset):
    table = load_table(f"{path}:{dataset}")
    assert len(table.rows) > 1
    small = dataset in datasets.SMALL
    for row in table.rows:
        config = configuration(row.config, "--config.seed=7", *row.overrides)
        assert config.seed == 7
        assert config.phases == (("pretrain",) if row.preparation else ("finetune",))
        settings = config[config.phases[0]]
        assert bool(row.after) == bool(config.pretrained)
        if small:
            assert row.config.endswith(f":{dataset}")
            assert settings.epochs == (0.5 if row.preparation else 1.0)
            configuration(row.config, "--config.pretrain.epochs=2.0", "--config.finetune.epochs=3.0")
        else:
            where = "coco_persons" if row.preparation else dataset
            assert row.config.endswith(f":{where}") and config.data.dir == f"data/{where}"
            assert settings.epochs == (20.0 if row.preparation and "figure6" in path else 30.0)
        if row.after:
            first = table.row(row.after)
            assert first.preparation and not first.after


@pytest.mark.parametrize("dataset", ["streets", "prw", "cuhk_sysu"])
@pytest.mark.parametrize("path", [path for path in TABLES if "roi_alignps" in path])
def test_every_row_of_roi_alignps_takes_its_options(path, dataset):
    table = load_table(f"{path}:{dataset}")
    assert len(table.rows) == (10 if "table6" in path else 8)
    models = []
    for row in table.rows:
        assert row.config.endswith(f":{dataset}") and set(row.paper) == {"CUHK-SYSU", "PRW"}
        if row.evaluation:
            changes = [change for change in row.overrides if change.startswith("--config.")]
            found = configuration(row.config, *changes).eval.get("model", {}).get("branch")
            assert found == (None if row.detector else row.name.rpartition(" ")[2])
            parse_arguments("", ["--workdir", "runs/x", *row.overrides])
            assert not table.row(row.after).evaluation
            continue
        config = configuration(row.config, "--config.seed=7", *row.overrides)
        assert (config.seed, config.phases) == (7, ("train",))
        assert dataset == "streets" or config.data.dir == f"data/{dataset}"
        assert config.eval.query == "best_detection" and config.eval.similarity == "cosine"
        model = config.model.to_dict()
        assert model not in models
        models.append(model)
        if dataset == "streets" and (model.get("train_boxes"), "table7" in path) != ("proposals", True):
            assert build_system(config.system, model_arguments(config, "train", num_identities=3)).template
    weights = [model.get("mutual_information_weight", 0.0) for model in models]
    assert sum(weights) == (0 if "table6" in path else pytest.approx(4 * 0.2))


def test_roi_alignps_without_mutual_learning_is_the_same_run_in_both_tables():
    rows = [
        load_table(f"configs/tables/roi_alignps_table{number}.py:prw").row(name)
        for number, name in ((6, "with proposals"), (7, "none"))
    ]
    assert rows[0].overrides == rows[1].overrides and rows[0].config == rows[1].config
    named = load_table("configs/tables/roi_alignps_table7.py:prw").row("mi")
    assert named.overrides == ("--config.data.dir=data/prw",)  # the configuration as it is


@pytest.mark.parametrize("dataset", ["streets", "prw"])
@pytest.mark.parametrize("path", [path for path in TABLES if "leaps" in path])
def test_every_row_of_leaps_takes_its_options(path, dataset):
    table = load_table(f"{path}:{dataset}")
    small = dataset == "streets"
    models = []
    for row in table.rows:
        assert row.config == f"configs/leaps{'_tiny' if small else ''}.py:{dataset}"
        config = configuration(row.config, "--config.seed=7", *row.overrides)
        assert (config.seed, bool(row.after), bool(config.pretrained)) == (
            7,
            bool(row.after),
            bool(row.after),
        )
        if row.after:
            assert (row.after, config.train.epochs) == ("detector", 6.0)
            assert table.row("detector").preparation
        else:
            assert config.train.epochs == (12.0 if small else 36.0)
        assert config.data.max_people <= config.model.num_proposals
        model = config.model.to_dict() | {"after": row.after}
        assert model not in models
        models.append(model)
    assert any(row.preparation for row in table.rows) == (small and "table5" not in path)
    system = build_system(config.system, model_arguments(config, "train", num_identities=3))
    assert "proposal_boxes" in system.template["params"]


@pytest.mark.parametrize("dataset", ["streets", "prw"])
def test_equal_rows_of_leaps_tables_are_one_run(dataset):
    """They have equal overrides, by which a run is known."""
    rows = [row for path in TABLES if "leaps" in path for row in load_table(f"{path}:{dataset}").rows]
    configs = {str(configuration(row.config, *row.overrides).to_dict()) for row in rows}
    assert len(configs) == len({row.overrides for row in rows}) < len(rows)


def test_the_ladder_of_figure_6_changes_the_boxes_of_pretraining_alone():
    table = load_table("configs/tables/spnet_figure6.py:cuhk_sysu")
    assert table.ladder.series["OC"][20] == "OC 20 %"
    for row in table.rows:
        data = configuration(row.config, *row.overrides).data
        amount = int(row.name.split()[1]) if row.preparation else 100
        assert (data.annotations, data.least_people) == (amount, 2 if row.preparation else 0)
    assert len(table.rows) == 1 + 2 * 2 * 5


def test_later_options_win_so_that_the_command_line_changes_all_rows():
    changes = ("--config.seed=7", "--config.phases=('finetune',)", "--config.seed=8")
    config = configuration("configs/spnet_qc.py:streets", *changes)
    assert (config.seed, config.phases) == (8, ("finetune",))


def test_pretraining_regresses_as_many_anchors_in_both_modes():
    for dataset in datasets.DATASETS:
        pairs, samples = (spnet_base.pretrain(dataset, mode).model for mode in ("qc", "oc"))
        batch = spnet_base.pretrain(dataset).batch_size
        assert pairs.pairs_per_batch * pairs.samples_per_pair == batch * samples.samples_per_image
        tuned = spnet_base.finetune(dataset, mode="qc").model
        assert tuned.mode == pairs.mode == "qc"
        for name in ("pairs_per_batch", "samples_per_pair"):
            assert tuned[name] == pairs[name]
