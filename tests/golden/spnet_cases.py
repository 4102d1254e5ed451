"""From the description of a golden file to the system, variables and batch it was made with."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from golden_recipe import Golden, golden_order

from ps_jax.interface import People, Scenes
from ps_jax.porting.spnet import port_spnet
from ps_jax.systems import System, build_system

LEVELS = {"feat_res3": "p3", "feat_res4": "p4", "feat_res5": "p5", "p6": "p6", "p7": "p7"}


def trunk_name(model: str, architecture: str) -> str:
    """Our name of a trunk that the authors call by two."""
    if model.endswith("swin"):  # swin_b of "swin" and of "solider_swin"
        family, _, size = architecture.rpartition("_")
        prefix = "solider_" if model.startswith("solider") else ""
        return f"{prefix}{family}_" + {"t": "tiny", "s": "small", "b": "base"}[size]
    return "resnet50" if model == "resnet" else architecture


def spnet_system(golden: Golden) -> System:
    """The system as configured in `meta`: sampling by the fixed permutation, no stochastic depth."""
    config = golden.meta["config"]
    model: dict[str, Any] = {
        "num_identities": golden.meta["lut"],
        "trunk": trunk_name(config["model"], config["backbone_arch"]),
        "mode": config["train_mode"],
        "embedding_dim": config["emb_dim"],
        "reid_dim": config["emb_reid_dim"],
        "num_cascade_steps": config["num_cascade_steps"],
        "separate_location_heads": config["emb_align_sep"],
        "focal_alpha": config["anchor_focal_alpha"],
        "focal_gamma": float(config["anchor_focal_gamma"]),
        "reid_objective": {"oim": "oim", "cq": "queue"}[config.get("reid_objective", "oim")],
        "oim_scale": config["oim_scalar"],
        "oim_momentum": config["oim_momentum"],
        "queue_size": config["oim_cq_size"],
        "clip_to_first_scene": True,
        "order": golden_order,
    }
    if config["model"] != "resnet":
        model["stochastic_depth"] = 0.0
    if config["train_mode"] == "oc":
        model["samples_per_image"] = config["subsample_per_image"]
    else:
        model |= {
            "samples_per_pair": config["subsample_per_image"],
            "pairs_per_batch": config["subsample_per_query"],
        }
    return build_system("spnet", model)


def spnet_variables(golden: Golden, system: System) -> dict[str, Any]:
    """The weights of the file, through the table that authors' checkpoints are ported with."""
    return port_spnet(golden.params(), system)


def padded_scenes(images: list[np.ndarray]) -> Scenes:
    """Normalised [3, h, w] images as one batch, zero-padded to the largest, rounded up to multiples of 32."""
    sizes = np.array([image.shape[1:] for image in images], np.int32)
    height, width = -(-sizes.max(axis=0) // 32) * 32
    batch = np.zeros((len(images), height, width, 3), np.float32)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[1], : image.shape[2]] = image.transpose(1, 2, 0)
    return Scenes(jnp.asarray(batch), jnp.asarray(sizes))


def training_batch(golden: Golden, spare_slots: int = 1) -> tuple[Scenes, People]:
    """The batch of a training file, people in slots of which `spare_slots` stay empty."""
    scenes = padded_scenes([golden.input(f"image{i}") for i in range(len(golden.meta["sizes"]))])
    count = scenes.size.shape[0]
    slots = max(len(golden.array(f"boxes{i}")) for i in range(count)) + spare_slots
    box = np.zeros((count, slots, 4), np.float32)
    identity = np.full((count, slots), -1, np.int32)
    person = np.full((count, slots), -1, np.int32)
    valid = np.zeros((count, slots), bool)
    unlabelled = golden.meta["lut"] + 1
    for i in range(count):
        labels = golden.array(f"labels{i}")
        n = len(labels)
        box[i, :n], valid[i, :n] = golden.array(f"boxes{i}"), True
        identity[i, :n] = np.where(labels == unlabelled, -1, labels - 1)
        # Unlabelled people of the object-centric files share one number; with us everybody has their own.
        person[i, :n] = np.where(labels == unlabelled, 1000 + i * slots + np.arange(n), labels - 1)
    return scenes, People(*map(jnp.asarray, (box, identity, person, valid)))


def background_and_person(logits: np.ndarray) -> np.ndarray:
    """Logits as stored: two columns, the dead background one first."""
    return np.stack([np.full(logits.shape, -1e6, np.float32), np.asarray(logits)], axis=-1)
