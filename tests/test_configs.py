"""What the configurations of pre-training on COCOPersons ask for, number by number."""

import jax
import pytest

from configs import (
    alignps,
    alignps_plus,
    datasets,
    leaps,
    leaps_tiny,
    nae,
    oim,
    rdlr,
    rdlr_base,
    rdlr_cross,
    rdlr_detector,
    rdlr_refine,
    rdlr_reid,
    rdlr_retinanet,
    roi_alignps,
    seqnet,
    spnet_base,
    spnet_oc,
    spnet_oc_l,
    spnet_oc_pretrain,
    spnet_qc,
    spnet_qc_finetune,
    spnet_qc_l,
)
from configs.tables import rdlr_figure5, rdlr_figure6
from ps_jax.errors import ConfigError
from ps_jax.systems import build_system
from ps_jax.training.optimizers import warmup_length
from ps_jax.training.phases import check_phases, model_arguments


def test_query_centric_pretraining_on_coco_persons_is_the_papers():
    config = spnet_qc.get_config("coco_persons")
    assert config.phases == ("pretrain",) and "finetune" not in config
    assert (config.data.source, config.data.annotations, config.data.least_people) == ("coco_persons", 100, 0)
    phase = config.pretrain
    assert (phase.model.mode, phase.model.pairs_per_batch, phase.model.samples_per_pair) == ("qc", 32, 64)
    reid = (phase.model.reid_objective, phase.model.queue_size, phase.model.encoder_momentum)
    assert reid == ("queue", 65536, 0.9999) and phase.model.oim_scale == 10  # temperature 0.1
    assert (phase.augmentation, phase.crop, phase.views, phase.batch_size) == ("rrc_scale", 512, 2, 8)
    assert (phase.epochs, phase.learning_rate, phase.weight_decay) == (30, 1e-4, 1e-3)
    assert (phase.backbone_learning_rate, phase.backbone_weight_decay) == (1e-5, 0)
    assert (config.model.trunk, config.model.embedding_dim, config.model.reid_dim) == (
        "convnext_tiny",
        128,
        128,
    )


@pytest.mark.parametrize(
    "config", [spnet_oc_pretrain, spnet_qc_finetune, seqnet, nae, oim, alignps, roi_alignps, leaps, rdlr]
)
def test_what_ends_in_a_search_is_not_trained_on_coco_persons(config):
    with pytest.raises(
        ConfigError, match=r"coco_persons is for pre-training alone, .* spnet_oc\.py:coco_persons"
    ):
        config.get_config("coco_persons")


def test_object_centric_pretraining_differs_in_the_path_alone():
    one, other = spnet_qc.get_config("coco_persons").to_dict(), spnet_oc.get_config("coco_persons").to_dict()
    first, second = one["pretrain"]["model"], other["pretrain"]["model"]
    assert (first.pop("mode"), second.pop("mode")) == ("qc", "oc")
    assert one == other
    assert first == second
    assert (first["pairs_per_batch"], first["samples_per_pair"], first["samples_per_image"]) == (32, 64, 256)
    assert first["anchors_per_batch"] == 2048  # 8 scenes x 256 = 32 pairs x 64


@pytest.mark.parametrize("dataset", ["prw", "streets"])
def test_both_modes_of_pretraining_regress_the_anchors_they_claim(dataset):
    for mode in ("qc", "oc"):
        phase = spnet_base.pretrain(dataset, mode)
        model, scenes = phase.model, phase.batch_size
        rows = (
            (model.pairs_per_batch, model.samples_per_pair)
            if mode == "qc"
            else (scenes, model.samples_per_image)
        )
        assert rows[0] * rows[1] == model.anchors_per_batch


def test_the_large_model_is_the_papers():
    config = spnet_qc_l.get_config("cuhk_sysu")
    assert config.model.trunk == "convnext_base"
    before, after = (model_arguments(config, phase, num_identities=3) for phase in config.phases)
    assert (before["embedding_dim"], before["reid_dim"], config.pretrain.crop) == (128, 128, 512)
    assert "num_cascade_steps" not in before and "separate_location_heads" not in before
    assert (after["embedding_dim"], after["reid_dim"], config.finetune.crop) == (128, 2048, 1024)
    assert (after["num_cascade_steps"], after["separate_location_heads"]) == (2, True)
    assert (after["mode"], after["samples_per_image"], after["replicate_stages"]) == ("oc", 128, True)
    alone = spnet_oc_l.get_config("cuhk_sysu")
    assert alone.phases == ("finetune",) and alone.finetune == config.finetune


@pytest.mark.parametrize("dataset", datasets.DATASETS)
@pytest.mark.parametrize("module", [spnet_qc, spnet_oc, spnet_qc_l, spnet_oc_l])
def test_every_configuration_makes_the_models_of_its_phases(module, dataset):
    config = module.get_config(dataset)
    assert config.is_locked and config.pretrained == ""
    for name in config.phases:
        system = build_system(config.system, model_arguments(config, name, num_identities=3))
        assert system.search_mode == config[name].model.mode


def test_the_seqnet_family_has_the_released_settings():
    config = seqnet.get_config("prw")
    assert config.phases == ("train",) and config.eval.similarity == "score_cosine"
    train, model = config.train, config.model
    assert (train.optimizer, train.learning_rate, train.weight_decay, train.clip_norm) == (
        "sgd",
        0.003,
        5e-4,
        10,
    )
    assert (train.batch_size, train.epochs, train.milestones) == (5, 18, (16,))
    assert train.augmentation == "window" and config.data.resize == (900, 1500)
    assert warmup_length(train, 2241, 40000) == 2240
    assert (model.trunk, model.reid_dim, model.oim_scale, model.queue_size) == ("resnet50", 256, 30, 500)
    assert (model.train_proposals, model.test_proposals) == ((12000, 2000), (6000, 300))
    assert (model.proposal_samples, model.samples_per_image, model.freeze_stem) == (256, 128, True)
    whole = seqnet.get_config("cuhk_sysu")
    assert (whole.train.epochs, whole.model.queue_size, whole.train.decay_biases) == (20, 5000, True)
    for module, head in ((nae, "norm_aware"), (oim, "softmax")):
        other = module.get_config("prw")
        assert (other.model.sequential, other.model.head, other.model.match_low) == (False, head, 0.1)
        assert (other.model.regression_weight, other.train.epochs, other.train.decay_biases) == (
            10,
            22,
            False,
        )


@pytest.mark.parametrize("dataset", [name for name in datasets.DATASETS if name not in datasets.PRETRAINING])
@pytest.mark.parametrize("module", [seqnet, nae, oim])
def test_every_configuration_of_the_seqnet_family_makes_its_model(module, dataset):
    config = module.get_config(dataset)
    system = build_system(config.system, model_arguments(config, "train", num_identities=3))
    assert config.is_locked and system.search_mode == "oc"
    assert set(config.eval.model) <= set(system.test_options)
    assert ("box_head" in system.template["params"]) == (module is seqnet)


def test_the_ways_to_train_the_trunk_in_pretraining_are_values_of_the_configuration():
    """Table 7's four: frozen, slow, slow without forgetting, as fast as the rest."""
    for changes, groups in (
        ({"model.backbone_tuning": "frozen"}, {"frozen"}),
        ({}, {"backbone"}),
        ({"model.lwf": "bce"}, {"backbone"}),
        ({"backbone_learning_rate": 1e-4, "backbone_weight_decay": 1e-3}, {"backbone"}),
    ):
        config = spnet_qc.get_config("prw")
        config.pretrain.update_from_flattened_dict(changes)
        system = build_system(config.system, model_arguments(config, "pretrain", num_identities=3))
        params = system.template["params"]
        trained = system.trainable(params)["backbone"]
        assert {"backbone" if leaf else "frozen" for leaf in jax.tree.leaves(trained)} == groups
        assert system.needs_weights == ("model.lwf" in changes)


def test_alignps_has_the_released_settings():
    for module, name, decay in (
        (alignps, "prw", 1e-3),
        (alignps_plus, "prw", 7e-4),
        (alignps, "cuhk_sysu", 1e-4),
    ):
        config = module.get_config(name)
        train, model = config.train, config.model
        assert (train.optimizer, train.learning_rate, train.weight_decay, train.clip_norm) == (
            "sgd",
            0.001,
            decay,
            35,
        )
        assert (train.batch_size, train.epochs, train.milestones) == (4, 24, (16, 22))
        assert (train.warmup_steps, train.warmup_start, train.bias_rate, train.decay_biases) == (
            500,
            1 / 3,
            2,
            False,
        )
        assert (model.trunk, model.deformable_stages, model.width) == (
            "resnet50_caffe",
            (2, 3, 4) if module is alignps_plus else (),
            256,
        )
        assert train.decay_norm_biases and len(train.scales) == 6 and train.scales[-1] == (1200, 2000)
        assert config.data.resize == (900, 1500)
        prw = name == "prw"
        assert (model.oim_scale, model.normalise_table, model.triplet, model.queue_size) == (
            (15, True, "none", 500) if prw else (10, False, "table", 5000)
        )
        assert (config.eval.query, config.eval.score_threshold) == ("best_detection", 0.15 if prw else 0.2)


@pytest.mark.parametrize("dataset", [name for name in datasets.DATASETS if name not in datasets.PRETRAINING])
@pytest.mark.parametrize("module", [alignps, alignps_plus])
def test_every_configuration_of_alignps_makes_its_model(module, dataset):
    config = module.get_config(dataset)
    system = build_system(config.system, model_arguments(config, "train", num_identities=3))
    assert config.is_locked and system.search_mode == "oc"
    stage = system.template["params"]["backbone"]["stage3"]["block0"]
    assert ("offset" in stage.get("conv2", {})) == (module is alignps_plus)


def test_leaps_has_the_papers_settings():
    for name, triplet, queue, threshold in (("prw", False, 500, 0.3), ("cuhk_sysu", True, 5000, 0.25)):
        config = leaps.get_config(name)
        train, model = config.train, config.model
        assert (train.optimizer, train.learning_rate, train.weight_decay) == ("adamw", 3e-5, 1e-4)
        assert (train.batch_size, train.epochs, train.milestones) == (2, 36, (24, 33))
        assert (train.clip_norm, train.warmup_steps, train.warmup_start) == (1, 1000, 0.01)
        assert (model.trunk, model.num_proposals, model.num_stages, model.reid_stages) == (
            "resnet50",
            100,
            6,
            2,
        )
        assert (model.triplet, model.queue_size, config.eval.score_threshold) == (triplet, queue, threshold)
        assert (config.eval.query, config.eval.true_boxes) == ("box", False)
        assert config.data.resize == (900, 1500)


@pytest.mark.parametrize("dataset", [name for name in datasets.DATASETS if name not in datasets.PRETRAINING])
@pytest.mark.parametrize("module", [leaps, leaps_tiny])
def test_every_configuration_of_leaps_makes_its_model(module, dataset):
    config = module.get_config(dataset)
    system = build_system(config.system, model_arguments(config, "train", num_identities=3))
    assert config.is_locked and system.search_mode == "oc"
    params = system.template["params"]
    boxes = params["proposal_boxes"].shape[0]
    assert (boxes, "stage_3" in params) == ((30, False) if module is leaps_tiny else (100, True))
    assert config.data.max_people <= boxes and "reid_head_1" in params


def test_roi_alignps_has_the_released_settings():
    for name in ("prw", "cuhk_sysu"):
        config = roi_alignps.get_config(name)
        train, model = config.train, config.model
        assert (train.optimizer, train.learning_rate, train.weight_decay, train.clip_norm) == (
            "sgd",
            0.0015,
            5e-4,
            10,
        )
        assert (train.batch_size, train.epochs, train.milestones) == (5, 24, (16, 22))
        assert (train.warmup_steps, train.warmup_start, train.bias_rate, train.decay_biases) == (
            1141,
            1 / 200,
            1,
            True,
        )
        assert (model.trunk, model.width, model.triplet, model.oim_scale) == (
            "resnet50_caffe",
            256,
            "table",
            10,
        )
        assert (model.mean_over_known, model.normalise_table, model.box_oim_scale) == (True, False, 30)
        assert (model.train_proposals, model.proposal_samples, model.samples_per_image) == (
            (12000, 2000),
            256,
            128,
        )
        assert model.queue_size == {"prw": 500, "cuhk_sysu": 5000}[name]
        weights = (model.mutual_information_weight, model.divergence_weight, model.cosine_weight)
        assert weights == (0.2, 0, 0) and (model.train_boxes, model.branch) == ("proposals", "both")
        threshold = {"prw": 0.15, "cuhk_sysu": 0.2}[name]
        assert (config.eval.query, config.eval.score_threshold) == ("best_detection", threshold)


@pytest.mark.parametrize("dataset", ["streets", "prw"])
def test_every_configuration_of_roi_alignps_makes_its_model(dataset):
    """On two cores with MobileNetV2, whose last stage the box branch has once more."""
    for name in [name for name in datasets.DATASETS if name not in datasets.PRETRAINING]:
        assert roi_alignps.get_config(name).is_locked
    config = roi_alignps.get_config(dataset)
    system = build_system(config.system, model_arguments(config, "train", num_identities=3))
    assert system.search_mode == "oc" and set(config.eval.model) <= set(system.test_options)
    params = system.template["params"]
    shapes = [
        jax.tree.map(lambda leaf: leaf.shape, tree)
        for tree in (params["reid_head"]["last_stage"], params["backbone"]["stage4"])
    ]
    assert shapes[0] == shapes[1]
    assert config.train.batch_size == (4 if dataset == "streets" else 5)


def test_rdlr_has_the_papers_refinement_and_its_parents_settings():
    config = rdlr.get_config("cuhk_sysu")
    assert config.phases == ("detector", "reid", "refine") and config.data.raw
    assert config.data.resize == (800, 1333)
    detector, reid, refine = (config[phase] for phase in config.phases)
    options = config.model.detector_options
    assert (options.trunk, options.width, options.box_beta) == ("resnet50_caffe", 256, 1)
    assert (options.samples_per_image, options.train_proposals) == (512, (2000, 2000))
    assert (detector.learning_rate, detector.batch_size, detector.epochs) == (0.005, 4, 12)
    assert (detector.milestones, detector.weight_decay, detector.bias_rate) == ((8, 11), 1e-4, 2)
    assert (detector.warmup_steps, detector.warmup_start, detector.decay_biases) == (500, 1 / 3, False)
    assert (config.model.reid_trunk, config.model.crop_size, reid.crop) == (
        "resnet50",
        (256, 128),
        (256, 128),
    )
    assert (reid.batch_size, reid.images_per_person, reid.erasing, reid.crop_padding) == (64, 4, 0.5, 10)
    assert (reid.optimizer, reid.learning_rate, reid.weight_decay, reid.epochs) == ("adam", 3.5e-4, 5e-4, 120)
    assert (reid.milestones, reid.warmup_start) == ((40, 70), 0.01)
    assert warmup_length(reid, 100, 12000) == 1000
    assert (refine.optimizer, refine.learning_rate, refine.weight_decay, refine.batch_size) == (
        "sgd",
        5e-5,
        5e-4,
        4,
    )
    assert (refine.steps, refine.milestones, refine.warmup_steps, refine.warmup_start) == (
        40000,
        (10000,),
        500,
        0,
    )
    assert refine.gates.to_dict() == pytest.approx({"detection_ap": 0.891, "reid_top1": 0.898})
    system = build_system(config.system, model_arguments(config, "refine", num_identities=3))
    assert (system.module.margin, system.module.proxies, system.module.mask_empty) == (0.5, 2, True)
    assert (system.module.boxes_per_person, system.module.boxes_per_scene) == (1, 16)
    assert (config.eval.detection_threshold, config.eval.score_threshold) == (0.05, 0.5)
    assert system.module.nms_threshold == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dataset", [name for name in datasets.DATASETS if name not in datasets.PRETRAINING])
@pytest.mark.parametrize("module", [rdlr, rdlr_cross, rdlr_detector, rdlr_refine, rdlr_reid, rdlr_retinanet])
def test_every_configuration_of_rdlr_makes_the_models_of_its_phases(module, dataset):
    config = module.get_config(dataset)
    assert config.is_locked
    for name in config.phases:
        system = build_system(config.system, model_arguments(config, name, num_identities=3))
        assert system.module.stage == name
        template = system.template["params"]
        assert ("classifier" in template["reid"]) == config.model.classifier
        assert "detector" in template and system.trunk_name in ("resnet50_caffe", "mobilenet_v2")
    assert rdlr_reid.get_config("market1501").data.source == "market1501"


def test_rdlr_of_other_people_has_the_proxy_triplet_loss_alone():
    config = rdlr_cross.get_config("prw")
    assert (config.model.classifier, config.model.softmax, config.model.proxy_triplet) == (False, False, True)
    assert config.phases == ("detector", "refine") and config.refine.gates.reid_top1 == 0
    with pytest.raises(ConfigError, match="no detector 'yolo'"):
        rdlr_base.base("prw", "yolo")


def test_rdlrs_retinanet_has_its_parents_settings():
    options = rdlr_retinanet.get_config("cuhk_sysu").model.detector_options
    assert (options.box_weights, options.box_beta, options.box_factor) == ((10, 10, 5, 5), 0.11, 0.25)
    assert options.mean_over_batch and options.p6_of_c5


def test_rdlr_with_retinanet_has_its_suppression_and_no_gate_of_another_detector():
    config = rdlr_retinanet.get_config("prw")
    system = build_system(config.system, model_arguments(config, "refine", num_identities=3))
    assert (system.module.detector_name, system.module.nms_threshold) == ("retinanet", 0.4)
    assert config.refine.gates.to_dict() == pytest.approx({"detection_ap": 0, "reid_top1": 0.742})
    assert rdlr.get_config("prw").refine.gates.detection_ap == pytest.approx(0.929)


def test_crops_of_another_size_than_those_that_are_searched_are_told():
    config = rdlr.get_config("streets")
    check_phases(config, 1)
    config.reid.crop = (256, 128)
    with pytest.raises(
        ConfigError, match=r"config\.reid\.crop is \(256, 128\), but .* config\.model\.crop_size, \(128, 64\)"
    ):
        check_phases(config, 1)


@pytest.mark.parametrize("figure", [rdlr_figure5, rdlr_figure6])
def test_figures_of_gallery_sizes_refuse_data_without_them(figure):
    for dataset in ("streets", "cuhk_sysu"):
        assert figure.get_table(dataset).rows
    for dataset in ("prw", "coco_json", "prw_small"):
        with pytest.raises(ConfigError, match=f"{dataset} has no galleries of several sizes"):
            figure.get_table(dataset)
