"""The same labeled images in all supported layouts."""

import json

from PIL import Image

CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (64, 48)

# Split -> image -> class and box (x1, y1, x2, y2; integers, as in Pascal VOC).
TRUTH = {
    "train": {
        "a": [("RBC", (0, 0, 10, 20)), ("WBC", (5, 6, 30, 40))],
        "b": [("Platelets", (60, 40, 64, 48)), ("RBC", (1, 1, 3, 4)), ("RBC", (1, 1, 13, 9))],
        "c": [],
        "d": [("WBC", (2, 2, 50, 47))],
    },
    "val": {"e": [("RBC", (10, 11, 20, 31)), ("WBC", (3, 4, 9, 9)), ("Platelets", (7, 8, 9, 12))], "f": []},
}


def write_image(path, size=SIZE, color=None):
    """Write an image with a uniform color that depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if color is None:
        color = tuple(sum(map(ord, path.stem)) * factor % 256 for factor in (1, 7, 31))
    Image.new("RGB", size, color).save(path)


def voc_xml(name, objects, size=SIZE):
    """Return an annotation in XML; boxes become 1-based and inclusive."""
    rows = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2) in objects
    )
    width, height = size
    stated = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{stated}{rows}</annotation>"


def write_voc(root, truth=TRUTH, size=SIZE):
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, images in truth.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
        for name, objects in images.items():
            write_image(root / "JPEGImages" / f"{name}.jpg", size)
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", objects, size))
    every = [name for images in truth.values() for name in images]
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(every))
    return root


def yolo_row(label, box, size=SIZE, classes=CLASSES):
    x1, y1, x2, y2 = box
    center = ((x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1], (x2 - x1) / size[0], (y2 - y1) / size[1])
    return f"{classes.index(label)} " + " ".join(f"{value:.6f}" for value in center)


def write_yolo(root, truth=TRUTH, size=SIZE):
    """Write a YOLO dataset like Roboflow."""
    for split, images in truth.items():
        folder = root / {"val": "valid"}.get(split, split)
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for name, objects in images.items():
            write_image(folder / "images" / f"{name}.jpg", size)
            rows = [yolo_row(label, box, size) for label, box in objects]
            (folder / "labels" / f"{name}.txt").write_text("\n".join(rows))
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 3\nnames: {list(CLASSES)}\n"
    )
    return root


def coco_content(images, file_name="{}.jpg", first_category=1, size=SIZE):
    """Return the content of a COCO file with the given images and objects."""
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": first_category + i, "name": name} for i, name in enumerate(CLASSES)]
    for number, (name, objects) in enumerate(images.items(), 1):
        entry = {"id": number, "file_name": file_name.format(name), "width": size[0], "height": size[1]}
        content["images"].append(entry)
        for label, (x1, y1, x2, y2) in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": first_category + CLASSES.index(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return content


def write_coco_folders(root, truth=TRUTH, size=SIZE):
    """Write COCO folders like Roboflow: ``train`` and ``valid``, each with images and a file."""
    for split, images in truth.items():
        folder = root / {"val": "valid"}.get(split, split)
        folder.mkdir(parents=True)
        for name in images:
            write_image(folder / f"{name}.jpg", size)
        (folder / "_annotations.coco.json").write_text(json.dumps(coco_content(images, size=size)))
    return root


def labelme_content(name, objects, size=SIZE):
    shapes = [
        {"label": label, "points": [box[:2], box[2:]], "group_id": None, "shape_type": "rectangle", "flags": {}}
        for label, box in objects
    ]
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }


def write_labelme(root, truth=TRUTH, size=SIZE):
    for split, images in truth.items():
        (root / split).mkdir(parents=True)
        for name, objects in images.items():
            write_image(root / split / f"{name}.jpg", size)
            content = labelme_content(f"{name}.jpg", objects, size)
            (root / split / f"{name}.json").write_text(json.dumps(content))
    return root


def write_table(root, truth=TRUTH, size=SIZE):
    root.mkdir(parents=True, exist_ok=True)
    for split, images in truth.items():
        rows = ["path,x1,y1,x2,y2,label"]
        for name, objects in images.items():
            write_image(root / "images" / f"{name}.jpg", size)
            values = [(*box, label) for label, box in objects] or [("",) * 5]
            rows += [f"images/{name}.jpg," + ",".join(map(str, value)) for value in values]
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


WRITERS = {
    "voc": write_voc,
    "yolo": write_yolo,
    "coco": write_coco_folders,
    "labelme": write_labelme,
    "csv": write_table,
}


def annotations(found):
    """Split -> image -> sorted (class, box)."""
    return {
        name: {i.path.stem: sorted((obj.label, obj.box) for obj in i.objects) for i in split.images}
        for name, split in found.splits.items()
    }
