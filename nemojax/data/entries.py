"""Which class each picture of a folder or archive belongs to: by a table, or by class folders."""

import csv
import io
from pathlib import PurePosixPath

from nemojax.sources import Source

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
LABELS = "labels.csv"


def labelled_entries(source: Source, classes: int | None = None) -> list[tuple[str, int]]:
    """(file, class index) of every picture.

    labels.csv with columns file and label (class index; further columns are ignored), in its order; or one
    subfolder per class, in sorted order, the index of a class being its place among the sorted names.

    Args:
        classes: of the network: labels from here on are refused, and so is another number of class folders.

    Raises:
        ValueError: one line that names the file, what is wrong with it and what to do.
    """
    tables = [name for name in source.names if name.split("/")[-1] == LABELS and name.count("/") <= 1]
    entries = _from_table(source, tables[0]) if len(tables) == 1 else _from_folders(source, classes)
    for name, label in entries:
        if classes is not None and label >= classes:
            raise ValueError(f"{source.place / name}: label {label} is outside 0-{classes - 1}: correct it")
    return entries


def is_picture(name: str) -> bool:
    """By its suffix."""
    return name.lower().endswith(SUFFIXES)


def _from_table(source: Source, table: str) -> list[tuple[str, int]]:
    """(file, label) of every row of labels.csv; files are relative to it."""
    where = source.place / table
    root = PurePosixPath(table).parent
    entries: dict[str, int] = {}
    try:
        rows = csv.DictReader(io.StringIO(source.read(table).decode("utf-8-sig"), newline=""), strict=True)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{where}: its first line does not name the columns file and label: add it")
        for row in rows:
            line = f"{where}: line {rows.line_num}"
            file, label = (row["file"] or "").strip(), (row["label"] or "").strip()
            if not (label.isascii() and label.isdigit() and len(label) < 10):
                raise ValueError(f"{line}: label {label!r} is not a class index 0, 1, 2, ...: correct it")
            path = PurePosixPath(file.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{line}: {file!r} leaves the folder: name files inside it")
            name = (root / path).as_posix()
            if name not in source:
                raise ValueError(f"{line}: there is no file {file!r}: correct the line or add the file")
            if name in entries:
                raise ValueError(f"{line}: {file!r} is listed twice: remove one line")
            entries[name] = int(label)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: is not a UTF-8 table ({error}): write it as file,label lines") from None
    return list(entries.items())


def _from_folders(source: Source, classes: int | None) -> list[tuple[str, int]]:
    """(file, class index) of the pictures in class folders."""
    here = f"{source.place}"
    hint = f"give a folder with one subfolder per class, or with {LABELS} (columns file,label)"
    loose = [name for name in source.names if "/" not in name and is_picture(name)]
    if loose:
        raise ValueError(f"{here}: {loose[0]!r} has no label: {hint}")
    if len(source.folders) < 2:
        raise ValueError(f"{here}: has {len(source.folders)} class folders: {hint}")
    members: dict[str, list[str]] = {folder: [] for folder in source.folders}
    for name in source.names:
        if "/" in name:
            members[name.split("/")[0]].append(name)
    entries = []
    if classes is not None and len(members) != classes:
        raise ValueError(
            f"{here}: has {len(members)} class folders, but the network has {classes} classes, so a folder's "
            f"place among them is no class: add a {LABELS} with the columns file,label"
        )
    for label, (folder, names) in enumerate(members.items()):
        if not names:
            raise ValueError(f"{source.place / folder}: holds no pictures: remove the folder or add some")
        if len({name.split("/")[1] for name in names if name.count("/") > 1}) > 1:
            raise ValueError(f"{source.place / folder}: has several subfolders of its own: {hint}")
        for name in names:
            if not is_picture(name):
                raise ValueError(f"{source.place / name}: is not a picture by its name: move it out")
            entries.append((name, label))
    return entries
