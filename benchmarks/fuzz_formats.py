"""Damage inside of formats whose outside would catch it: checksums, lengths, directories are made good."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from benchmarks.fuzz_mutations import JSON, RAW, TEXT, Mutation, bytes_flipped, tree_changed

NAMES = (
    *(
        "../out",
        "/etc/passwd",
        "C:\\x",
        "a/../../b",
        "\\\\host\\x",
        "a\x00b",
        "",
        ".",
        "a//b",
        "\ud800",
        "é",
        "a\nb",
    ),
    *("x" * 4000, "d/" * 200 + "f", ".hidden", "__MACOSX/a", "a/", "./a"),
)


def safetensors_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """The header, what the metadata hold as JSON, or the numbers; the header's length fits again."""
    size = int.from_bytes(data[:8], "little")
    try:
        head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    except ValueError:
        return bytes_flipped(rng, data, others)
    if not isinstance(head, dict) or not isinstance(head.get("__metadata__", {}), dict):
        return bytes_flipped(rng, data, others)  # by an earlier mutation
    told = [k for k, v in head.get("__metadata__", {}).items() if isinstance(v, str) and v[:1] == "{"]
    way = rng.random()
    if way < 0.6 and told:
        own = head["__metadata__"]
        name = str(rng.choice(told))
        text = own[name].encode()
        text = JSON[int(rng.integers(len(JSON)))](rng, text, [text])
        own[name] = text.decode("utf-8", "replace")
    elif way < 0.85:
        head = tree_changed(rng, head)
    elif body:
        numbers = bytearray(body)
        at = int(rng.integers(0, max(1, len(body) // 4))) * 4
        numbers[at : at + 4] = struct.pack("<f", float(rng.choice([np.nan, np.inf, -1.0, 0.0, 1e38])))
        body = bytes(numbers)
    new = json.dumps(head).encode("utf-8", "replace")
    return len(new).to_bytes(8, "little") + new + body


def state_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A checkpoint's header or state, its length and checksum made good again in half of the cases."""
    first, _, payload = data.partition(b"\n")
    try:
        head = json.loads(first)
        if rng.random() < 0.5:
            head = tree_changed(rng, head)
        else:
            payload = RAW[int(rng.integers(len(RAW)))](rng, payload, [payload])
        if rng.random() < 0.7 and isinstance(head, dict):
            head["length"] = len(payload)
            whole = {name: value for name, value in head.items() if name != "sha256"}
            covered = head.get("settings") if head.get("schema") == 1 else whole
            text = json.dumps(covered, sort_keys=True)
            head["sha256"] = hashlib.sha256(text.encode() + b"\n" + payload).hexdigest()
        return json.dumps(head).encode("utf-8", "replace") + b"\n" + payload
    except (ValueError, TypeError):
        return bytes_flipped(rng, data, others)


def png_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A chunk of a PNG damaged, or its size made huge, with the CRC that it should have."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return bytes_flipped(rng, data, others)
    i = int(rng.integers(len(chunks)))
    kind, body = chunks[i]
    if kind == b"IHDR" and rng.random() < 0.7:
        sides = [
            int(rng.choice([0, 1, 3, 8000, 9000, 20_000, 2**16, 2**31 - 1, 2**32 - 1])) for _ in range(2)
        ]
        body = struct.pack(">II", *sides) + body[8:]
    elif kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(bytes(_size(rng)), 1)
    else:
        body = RAW[int(rng.integers(len(RAW)))](rng, body, [body])
    chunks[i] = (kind if rng.random() < 0.9 else b"zTXt", body)
    whole = [len(b).to_bytes(4, "big") + k + b + zlib.crc32(k + b).to_bytes(4, "big") for k, b in chunks]
    return data[:8] + b"".join(whole)


def zip_changed(
    rng: np.random.Generator, data: bytes, others: Sequence[bytes], inside: Sequence[Mutation] = RAW
) -> bytes:
    """A member damaged, renamed, repeated, compressed or grown; the archive itself is whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, zlib.error, EOFError):
        return bytes_flipped(rng, data, others)
    if not members:
        return bytes_flipped(rng, data, others)
    i = int(rng.integers(len(members)))
    name, body = members[i]
    method = zipfile.ZIP_STORED
    match int(rng.integers(6)):
        case 0:
            members[i] = (str(NAMES[int(rng.integers(len(NAMES)))]) or "e", body)
        case 1:
            members.append(members[i])
        case 2:
            del members[i]
        case 3:
            method, body = zipfile.ZIP_DEFLATED, bytes(_size(rng))
            members[i] = (name, body)
        case _:
            members[i] = (name, inside[int(rng.integers(len(inside)))](rng, body, [b for _, b in members]))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method, compresslevel=1) as archive:
        for one, content in members:
            info = zipfile.ZipInfo(one.encode("utf-8", "replace").decode())
            info.compress_type = method
            if rng.random() < 0.05:
                info.external_attr = 0o120777 << 16  # a symbolic link
            archive._didModify = True  # names twice are wanted here, without zipfile's warning
            archive.NameToInfo.pop(info.filename, None)
            archive.writestr(info, content)
    return out.getvalue()


def tar_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A tar archive made anew with an odd member or header, perhaps compressed, perhaps damaged."""
    plain = _plain(data)
    out = io.BytesIO()
    try:
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            members = [(m, archive.extractfile(m).read() if m.isreg() else b"") for m in archive]  # type: ignore[union-attr]
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new:
            odd = int(rng.integers(0, len(members) + 1))
            for i, (member, body) in enumerate(members):
                if i == odd:
                    body = _odd_member(rng, member, body)
                new.addfile(member, io.BytesIO(body))
    except (tarfile.TarError, ValueError, OSError, EOFError, AttributeError, UnicodeError, struct.error):
        return bytes_flipped(rng, data, others)
    found = out.getvalue()
    if rng.random() < 0.3:
        found = _header_changed(rng, found)
    if rng.random() < 0.4:
        found = (_gzip, bz2.compress, _lzma)[int(rng.integers(3))](found)
    return RAW[int(rng.integers(len(RAW)))](rng, found, [found]) if rng.random() < 0.3 else found


def _odd_member(rng: np.random.Generator, member: tarfile.TarInfo, body: bytes) -> bytes:
    match int(rng.integers(5)):
        case 0:
            member.name = str(NAMES[int(rng.integers(len(NAMES)))])
        case 1:
            member.type = bytes(rng.choice([b"1", b"2", b"3", b"4", b"5", b"6", b"S", b"x", b"Z"]))
            member.linkname = "/etc/passwd"
        case 2:
            member.size = max(0, len(body) - 10)
        case 3:
            body = bytes(_size(rng))
            member.size = len(body)
        case _:
            body = RAW[int(rng.integers(len(RAW)))](rng, body, [body])
            member.size = len(body)
    return body


def _header_changed(rng: np.random.Generator, data: bytes) -> bytes:
    """A field of a header overwritten, and the sum of the header as it should be."""
    found = bytearray(data)
    at = 512 * int(rng.integers(0, max(1, len(found) // 512)))
    start, size = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))[
        int(rng.integers(8))
    ]
    found[at + start : at + start + size] = rng.bytes(size) if rng.random() < 0.5 else b"7" * size
    block = found[at : at + 512]
    block[148:156] = b" " * 8
    found[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(found)


def _size(rng: np.random.Generator) -> int:
    """Bytes that unpack from next to nothing; rarely more than a limit, as making those takes time."""
    return 7 * 10**7 if rng.random() < 0.03 else int(rng.choice([0, 10, 10**5]))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def _plain(data: bytes) -> bytes:
    for opener in (gzip.decompress, bz2.decompress, lzma.decompress):
        try:
            return opener(data)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
            continue
    return data


def onnx_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A field of the message set to another number, name or kind; still a message."""
    import onnx

    try:
        proto = onnx.load_from_string(data)
        for _ in range(int(rng.choice((1, 1, 2)))):
            _field_changed(rng, proto)
        return bytes(proto.SerializeToString())
    except Exception:  # protobuf refuses what it cannot hold
        return bytes_flipped(rng, data, others)


def _field_changed(rng: np.random.Generator, message: object) -> None:
    """Walks down to a random field of a protobuf message and changes it there."""
    fields = message.ListFields()  # type: ignore[attr-defined]
    if not fields:
        return
    field, value = fields[int(rng.integers(len(fields)))]
    repeated = (
        not isinstance(value, bytes | str) and hasattr(value, "__len__") and not hasattr(value, "ListFields")
    )
    number = int(rng.choice([0, -1, 1, 2, 7, 1000, 2**31 - 1, 2**40, 2**62, -(2**63)]))
    if field.type == field.TYPE_MESSAGE:
        if not repeated:
            _field_changed(rng, value)
        elif rng.random() < 0.1 and len(value):
            del value[int(rng.integers(len(value)))]
        elif rng.random() < 0.1 and len(value):
            value.add().CopyFrom(value[int(rng.integers(len(value)))])
        elif len(value):
            _field_changed(rng, value[int(rng.integers(len(value)))])
        return
    if field.type == field.TYPE_STRING:
        new: object = str(
            rng.choice(["", "x", "Conv", "Add", "Reshape", "If", "y\n", "input", "w", "Gather", "Slice"])
        )
    elif field.type == field.TYPE_BYTES:
        new = RAW[int(rng.integers(len(RAW)))](rng, bytes(value[0] if repeated else value) or b"0", [b"1"])
    else:
        new = number if field.type not in (field.TYPE_FLOAT, field.TYPE_DOUBLE) else float(number)
    if repeated:
        value[int(rng.integers(len(value)))] = new
    else:
        setattr(message, field.name, new)


def keras_or_torch_changed(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A zip whose members are pickles, numbers or HDF5."""
    return zip_changed(rng, data, others, RAW)


SAFETENSORS: tuple[Mutation, ...] = (*(safetensors_changed,) * 9, *RAW)
STATE: tuple[Mutation, ...] = (*(state_changed,) * 8, *RAW)
PNG: tuple[Mutation, ...] = (*(png_changed,) * 4, *RAW)
ZIP: tuple[Mutation, ...] = (*(zip_changed,) * 8, *RAW)
TAR: tuple[Mutation, ...] = (*(tar_changed,) * 8, *RAW)
ONNX: tuple[Mutation, ...] = (*(onnx_changed,) * 10, *RAW)

BY_SUFFIX = {
    **{".json": JSON, ".toml": TEXT, ".csv": TEXT, ".xml": TEXT, ".txt": TEXT, ".ppm": RAW},
    **{".safetensors": SAFETENSORS, ".state": STATE, ".png": PNG, ".zip": ZIP, ".tar": TAR, ".onnx": ONNX},
    **{".npz": ZIP, ".pth": ZIP, ".keras": ZIP, ".tree": JSON},
}


def mutated(rng: np.random.Generator, suffix: str, data: bytes, others: Sequence[bytes]) -> bytes:
    """One mutation of those that a file of this kind has, in a fifth of the cases two in a row."""
    known = BY_SUFFIX.get(suffix, RAW)
    for _ in range(1 + (rng.random() < 0.2)):
        data = known[int(rng.integers(len(known)))](rng, data, others)
    return data
