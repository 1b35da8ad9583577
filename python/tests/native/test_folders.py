"""Hugging Face folders: loaded, inspected and converted, by the library and by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tritlab as tl
from tritlab.cli import app

FIXTURES = Path(__file__).parents[3] / "model" / "tests" / "data" / "fixtures"
IDS = np.arange(1, 13, dtype=np.int32)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_folder_and_file_are_one_model(name: str) -> None:
    folder = tl.Model.load(FIXTURES / name)
    file = tl.Model.load(FIXTURES / name / "model.gguf")
    assert folder.fingerprint(IDS) == file.fingerprint(IDS)
    assert folder.architecture == file.architecture
    assert folder.name == name
    assert folder.tensors()[0]["name"] == "model.embed_tokens.weight"


def test_convert_goes_both_ways(tmp_path: Path) -> None:
    source = FIXTURES / "bitnet-packed-multiply"
    seen: list[str] = []

    def progress(done: int, total: int, name: str) -> None:
        seen.append(name)
        assert done < total

    report = tl.convert(source, tmp_path / "out.gguf", progress=progress)
    assert report["tensors"] == len(seen)
    assert report["bytes_out"] == (tmp_path / "out.gguf").stat().st_size
    assert report["tokenizer"] is False  # the fixture has none
    run("convert", tmp_path / "out.gguf", tmp_path / "back")
    hashes = {tl.Model.load(p).fingerprint(IDS) for p in (source, *tmp_path.iterdir())}
    assert len(hashes) == 1
    again = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out.gguf")])
    assert again.exit_code == 1
    assert "--force" in again.stderr
    run("convert", "--force", source, tmp_path / "out.gguf")


def test_convert_replaces_nothing_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"out\.gguf.*force"):
        tl.convert(FIXTURES / "llama", out)
    assert out.read_bytes() == b"mine"
    with pytest.raises(FileExistsError, match="exists"):
        tl.convert(FIXTURES / "llama", tmp_path, force=True)
    tl.convert(FIXTURES / "llama", out, force=True)
    assert tl.Model.load(out).n_vocab == 128


def copy(name: str, to: Path) -> dict[str, Any]:
    """Copy a fixture, and give its config.json."""
    for file in ("config.json", "model.safetensors"):
        (to / file).write_bytes((FIXTURES / name / file).read_bytes())
    config: dict[str, Any] = json.loads((to / "config.json").read_text())
    return config


def test_ids_of_a_model_without_a_tokenizer_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    config = copy("phi3-long", source)
    config |= {"bos_token_id": 3, "eos_token_id": [7, 4, 9], "pad_token_id": 5}
    (source / "config.json").write_text(json.dumps(config))
    tl.convert(source, tmp_path / "out.gguf")
    tl.convert(tmp_path / "out.gguf", tmp_path / "back")
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "sliding_window"):
        assert back[key] == config[key], key
    settings = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [7, 4, 9]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("generation_config.json", '{"eos_token_id": ', "not valid JSON"),
        ("generation_config.json", '{"eos_token_id": 128}', "eos_token_id.*128"),
        ("generation_config.json", '{"bos_token_id": "<s>"}', 'bos_token_id.*"<s>"'),
        ("model.safetensors", POINTER, "is a Git LFS pointer, not the file itself"),
        ("config.json", "<!doctype html><p>Sign in", "a page of a web site"),
    ],
)
def test_what_is_wrong_is_said_at_load(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    copy("llama", tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(tl.errors.ModelError, match=rf"{file}: .*{message}"):
        tl.Model.load(tmp_path)


def test_a_truncated_tokenizer_says_so_quietly(tmp_path: Path, capfd: Any) -> None:
    copy("llama", tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "voc')
    model = tl.Model.load(tmp_path)
    with pytest.raises(tl.errors.TokenizerError, match=r"tokenizer\.json: .*EOF"):
        model.tokenize("text")
    assert model.logits(IDS).shape == (12, 128)
    assert capfd.readouterr().err == ""


def test_rope_that_says_what_it_is_not(tmp_path: Path) -> None:
    config = copy("gemma3", tmp_path)
    for change, message in (
        ({"rope_scaling": {"factor": 8.0}}, r"rope_scaling\.rope_type: it is missing"),
        ({"rope_parameters": {"fulll_attention": {}}}, "fulll_attention.*full_attention and sli"),
        ({"rope_parameters": {"rope_type": "linear"}}, "full_attention and sliding_attention"),
        ({"max_position_embeddings": 0}, "max_position_embeddings: it is 0"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(tl.errors.ModelError, match=rf"config\.json: .*{message}"):
            tl.Model.load(tmp_path)


def test_quantize_takes_folders(tmp_path: Path) -> None:
    run("convert", FIXTURES / "llama", tmp_path / "whole.gguf")
    for source, out in ((FIXTURES / "llama", "one.gguf"), (tmp_path / "whole.gguf", "two.gguf")):
        said = run("quantize", source, tmp_path / out, "-f", "Q8_0", "--i2-s", "I2_S_64")
        assert "linear layers to Q8_0" in said
    a, b = (tl.Model.load(tmp_path / name) for name in ("one.gguf", "two.gguf"))
    assert a.fingerprint(IDS) == b.fingerprint(IDS)
    said = run(
        "quantize", FIXTURES / "llama", tmp_path / "k.gguf", "-f", "Q4_K", "--fallback", "Q5_0"
    )
    assert "Q5_0" in said.split("replaced")[1]
    assert "F32" not in said


def test_convert_says_what_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    run("convert", FIXTURES / "llama", file)
    for source, out, word in (
        (file, tmp_path / "b.gguf", "quantize"),
        (file, file, "to be converted"),
        (FIXTURES / "llama", FIXTURES / "llama", "to be converted"),
        (file, tmp_path, "exists"),
        (FIXTURES / "llama", tmp_path / "no" / "x.gguf", "No such file"),
    ):
        got = CliRunner().invoke(app, ["convert", "--force", str(source), str(out)])
        assert got.exit_code == 1, got.output
        assert word in got.stderr
        assert ".tritlab-" not in got.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]


def test_inspect_takes_folders() -> None:
    found = json.loads(run("inspect", FIXTURES / "qwen3", "--json"))
    assert found["metadata"]["model_type"] == "qwen3"
    assert {t["type"] for t in found["tensors"]} == {"F32"}
    assert "Hugging Face folder" in run("inspect", FIXTURES / "qwen3", "--tensors")


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        tl.Model.load(tmp_path)
    config = json.loads((FIXTURES / "llama" / "config.json").read_text())
    config["hidden_size"] = "wide"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(tl.errors.ModelError, match=r'config\.json.*hidden_size.*"wide"'):
        tl.Model.load(tmp_path)
    config["hidden_size"] = 96
    config["model_type"] = "mamba"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(tl.errors.ModelError, match="mamba"):
        tl.Model.load(tmp_path)
