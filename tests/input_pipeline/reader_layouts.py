"""Writes tiny data sets in the published disk layouts, for the tests of the readers and builders."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import io

WIDTH, HEIGHT = 64, 48


def write_picture(path: Path, shade: int = 100, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 255 - shade, 30)).save(path)


def cells(values) -> np.ndarray:
    """A column cell array."""
    result = np.empty((len(values), 1), object)
    result[:, 0] = values
    return result


def structs(fields, rows) -> np.ndarray:
    """A row of structs with these fields."""
    result = np.empty((1, len(rows)), [(field, object) for field in fields])
    for place, row in enumerate(rows):
        result[0, place] = tuple(row)
    return result


# PRW

PRW_TRAIN = {
    "c1s1_000151": [(1, 5, 6, 10, 20), (-2, 30, 6, 10, 20)],
    "c2s1_000176": [(932, 5, 6, 10, 20)],
    "c6s2_000201": [],
}
PRW_TEST = {
    "c1s1_000301": [(7, 2.9, 3.9, 10.2, 20.2), (-2, 40, 2, 9, 9)],
    "c3s2_000326": [(7, -3.7, 4, 10.2, 20)],
    "c6s1_004576": [(8, 50, 30, 20, 30)],
}
PRW_QUERIES = (
    "7 2.9000 3.9000 10.2000 20.2000 c1s1_000301",
    "7 -3.7000 4.0000 10.2000 20.0000 c3s2_000326",
)


def write_prw(root: Path, ending: str = "\r\n") -> Path:
    for names, partition in ((PRW_TRAIN, "train"), (PRW_TEST, "test")):
        for shade, (name, rows) in enumerate(names.items()):
            write_picture(root / "frames" / f"{name}.jpg", shade * 40)
            write_prw_boxes(root, name, box_new=rows)
        io.savemat(root / f"frame_{partition}.mat", {f"img_index_{partition}": cells(list(names))})
    write_prw_queries(root, PRW_QUERIES, ending)
    return root


def write_prw_boxes(root: Path, name: str, **variables) -> None:
    path = root / "annotations" / f"{name}.jpg.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: np.array(rows, float).reshape(-1, 5) for key, rows in variables.items()}
    io.savemat(path, content, appendmat=False)


def write_prw_queries(root: Path, lines, ending: str = "\r\n") -> None:
    (root / "query_info.txt").write_bytes("".join(line + ending for line in lines).encode())


# CUHK-SYSU: training scenes s1, s2, s3; test scenes s4 .. s9

CUHK_BOXES = {
    "s1.jpg": [(1, 2, 10, 20), (20, 2, 10, 20)],
    "s2.jpg": [(3, 4, 10, 20), (30, 4, 10, 20), (9, 9, 0, 5)],
    "s3.jpg": [(5, 6, 10, 20)],
    "s4.jpg": [(1, 1, 12, 24), (40, 1, 12, 24)],
    "s5.jpg": [(2, 2, 12, 24)],
    "s6.jpg": [(3, 3, 12, 24), (40, 3, 12, 24)],
    "s7.jpg": [(4, 4, 12, 24)],
    "s8.jpg": [(5, 5, 12, 24)],
    "s9.jpg": [(50, 30, 30, 30)],
}
CUHK_POOL = ["s9.jpg", "s4.jpg", "s5.jpg", "s6.jpg", "s7.jpg", "s8.jpg"]
CUHK_TRAIN = [
    [("s1.jpg", (1, 2, 10, 20)), ("s2.jpg", (3, 4, 10, 20))],
    [("s2.jpg", (30, 4, 10, 20)), ("s3.jpg", (5, 6, 10, 20))],
]
# Of each query: scene, box, gallery. The second gallery names s7 twice.
CUHK_TEST = [
    ("s4.jpg", (1, 1, 12, 24), [("s5.jpg", (2, 2, 12, 24)), ("s8.jpg", None), ("s7.jpg", None)]),
    (
        "s6.jpg",
        (3, 3, 12, 24),
        [("s7.jpg", (4, 4, 12, 24)), ("s7.jpg", (4, 4, 12, 24)), ("s9.jpg", None), ("s5.jpg", None)],
    ),
]


def protocol(queries, box_type=np.uint8) -> np.ndarray:
    """The struct array of a protocol file."""
    records = []
    for scene, box, items in queries:
        query = structs(
            ("imname", "idlocate", "ishard", "idname"),
            [(scene, np.array([box], box_type), np.zeros((1, 1)), "p1")],
        )
        gallery = structs(
            ("imname", "idlocate", "ishard"),
            [
                (name, np.zeros((1, 0)) if place is None else np.array([place], box_type), np.zeros((1, 0)))
                for name, place in items
            ],
        )
        records.append((query, gallery))
    return structs(("Query", "Gallery"), records)


def write_gallery(root: Path, size: int, queries, box_type=np.uint8) -> None:
    folder = root / "annotation/test/train_test"
    folder.mkdir(parents=True, exist_ok=True)
    io.savemat(folder / f"TestG{size}.mat", {f"TestG{size}": protocol(queries, box_type)})


def write_subset(root: Path, name: str, variable: str, queries) -> None:
    folder = root / "annotation/test/subset"
    folder.mkdir(parents=True, exist_ok=True)
    io.savemat(folder / f"{name}.mat", {variable: protocol(queries, float)})


def write_images(root: Path, boxes) -> None:
    (root / "annotation").mkdir(parents=True, exist_ok=True)
    rows = [
        (
            name,
            len(found),
            structs(("idlocate", "ishard"), [(np.array([box], float), np.zeros((1, 1))) for box in found]),
        )
        for name, found in boxes.items()
    ]
    io.savemat(root / "annotation" / "Images.mat", {"Img": structs(("imname", "nAppear", "box"), rows)})


def write_cuhk_sysu(root: Path, sizes=(50, 100)) -> Path:
    for shade, name in enumerate(CUHK_BOXES):
        write_picture(root / "Image" / "SSM" / name, shade * 25)
    write_images(root, CUHK_BOXES)
    io.savemat(root / "annotation" / "pool.mat", {"pool": cells(CUHK_POOL)})
    for size in sizes:
        write_gallery(root, size, CUHK_TEST)
    people = []
    for number, scenes in enumerate(CUHK_TRAIN):
        rows = [(name, np.array([box], np.uint8), np.zeros((1, 1))) for name, box in scenes]
        fields = ("idname", "nAppear", "scene")
        people.append(
            structs(fields, [(f"p{number}", len(rows), structs(("imname", "idlocate", "ishard"), rows))])
        )
    folder = root / "annotation/test/train_test"
    folder.mkdir(parents=True, exist_ok=True)
    io.savemat(folder / "Train.mat", {"Train": cells(people)})
    return root


# COCO


def coco_content() -> dict:
    """Two training and five test scenes; identity 3 is in four test scenes, 4 in two, 5 in one."""
    names = ["c1s1_000010", "c1s1_000020", "c6s1_000050", "c6s1_000030", "plain", "c6s1_000040", "zebra"]
    images = [
        {"id": 10 + number, "file_name": f"{name}.jpg", "split": "train" if number < 2 else "test"}
        for number, name in enumerate(names)
    ]
    boxes = [
        (10, [1, 2, 10, 20], 0),
        (11, [1, 2, 10, 20], -1),
        (12, [1, 2, 10.5, 20], 3),
        (13, [2, 2, 10, 20], 3),
        (13, [20, 2, 10, 20], 4),
        (14, [3, 2, 10, 20], 3),
        (15, [4, 2, 10, 20], 3),
        (15, [20, 2, 10, 20], 4),
        (15, [35, 2, 10, 20], 5),
    ]
    annotations = [
        {"id": number, "image_id": image, "bbox": box, "person_id": person, "category_id": 1, "iscrowd": 0}
        for number, (image, box, person) in enumerate(boxes)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }


def write_coco(root: Path, content: dict | None = None, folder: str = "frames") -> Path:
    content = coco_content() if content is None else content
    for shade, image in enumerate(content["images"]):
        write_picture(root / folder / image["file_name"], shade * 30)
    (root / "coco.json").write_text(json.dumps(content))
    return root


# COCOPersons

# Of each picture: number, size (width, height), annotations (number, category, crowd, box).
COCO_PERSONS = (
    (
        139,
        (64, 48),
        [
            (2001, 1, 0, [4.25, 5.5, 10, 20]),
            (2002, 62, 0, [1, 1, 30, 30]),
            (900100000139, 1, 1, [0, 0, 60, 12]),  # a crowd region
            (1001, 1, 0, [40, 30, 1, 1.5]),  # no size is too small
        ],
    ),
    (285, (48, 64), [(2003, 23, 0, [2, 2, 40, 50])]),  # a bear alone
    (632, (64, 48), [(2206849, 1, 0, [9.98, 18.56, 15.52, 0.0])]),  # no area
    (724, (64, 48), [(900100000724, 1, 1, [0, 0, 60, 12])]),  # a crowd alone
    (776, (48, 64), [(3001, 1, 0, [20, 10, 28.03, 40])]),  # reaches over the border
    (
        785,
        (64, 48),
        [(3002, 1, 0, [1, 2, 12, 30]), (3003, 1, 0, [20, 2, 12, 30]), (12, 1, 0, [40, 2, 12, 30])],
    ),
    (802, (64, 48), []),
)


def coco_persons_content() -> dict:
    """Three pictures with people, with 2, 1 and 3 of them, and four without."""
    return {
        "info": {"description": "COCO 2017 Dataset"},
        "images": [
            {"id": number, "file_name": f"{number:012}.jpg", "width": width, "height": height}
            for number, (width, height), _ in COCO_PERSONS
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "iscrowd": crowd,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": {"counts": [1, 2], "size": [48, 64]} if crowd else [[1, 1, 2, 2, 1, 2]],
            }
            for image, _, annotations in COCO_PERSONS
            for number, category, crowd, box in annotations
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "animal", "id": 23, "name": "bear"},
            {"supercategory": "furniture", "id": 62, "name": "chair"},
        ],
    }


def write_coco_persons(root: Path, content: dict | None = None) -> Path:
    for shade, (number, size, _) in enumerate(COCO_PERSONS):
        write_picture(root / "train2017" / f"{number:012}.jpg", shade * 30, size)
    (root / "annotations").mkdir(exist_ok=True)
    content = coco_persons_content() if content is None else content
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root
