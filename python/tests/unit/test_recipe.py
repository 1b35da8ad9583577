import json
import re

import pytest


@pytest.fixture
def recipe(fake):
    from tritlab import recipe

    return recipe


def test_a_list_for_llama_quantize_names_each_tensor_once(recipe):
    text = recipe.tensor_types([("output.weight", "Q8_0"), ("blk.1.ffn_down.weight", "q4_0")])
    assert text == "^output\\.weight$=q8_0\n^blk\\.1\\.ffn_down\\.weight$=q4_0\n"
    assert recipe.Recipe.parse(text).overrides == (
        ("^output\\.weight$", "Q8_0"),
        ("^blk\\.1\\.ffn_down\\.weight$", "Q4_0"),
    )
    # Words in any layout, as llama-quantize reads them.
    assert recipe.Recipe.parse("a=q8_0   b=F16\n\n\tc=q4_0").overrides == (
        ("a", "Q8_0"),
        ("b", "F16"),
        ("c", "Q4_0"),
    )


def llama_quantize(text, names):
    """Types by tensor as llama-quantize reads a list: quantize.cpp and llama-quant.cpp, in Python.

    Words; the first "=" divides; the pattern in small letters is searched for (std::regex_search,
    ECMAScript), the type is a name of ggml_type_name in any case, and the first match decides.
    """
    known = "f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q2_K q3_K q4_K q5_K q6_K tq1_0 tq2_0 iq4_nl"
    types = {name.lower(): name for name in known.split()}
    rules = []
    for word in text.split():
        at = word.index("=")
        assert 0 < at < len(word) - 1
        pattern = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in word[:at])
        # What both grammars read alike: letters, digits, anchors, an escaped dot.
        assert re.fullmatch(r"\^([a-z0-9_]|\\\.)+\$", pattern)
        rules.append((re.compile(pattern), types[word[at + 1 :].lower()]))
    return {name: next((t for p, t in rules if p.search(name)), None) for name in names}


def test_llama_quantize_reads_the_list_as_it_is_meant(recipe):
    wanted = {
        "token_embd.weight": "Q6_K",
        "output.weight": "Q8_0",
        "blk.0.attn_output.weight": "Q4_K",
        "blk.1.ffn_down.weight": "IQ4_NL",
        "blk.10.ffn_down.weight": "Q3_K",
        "blk.11.ffn_down.weight": "TQ2_0",
        "blk.1.attn_q.weight": "BF16",
    }
    text = recipe.tensor_types(wanted.items())
    got = llama_quantize(text, [*wanted, "blk.1.attn_norm.weight"])
    assert got.pop("blk.1.attn_norm.weight") is None
    assert {name: kind.upper() for name, kind in got.items()} == wanted
    assert "#" not in text  # a comment would be a malformed word
    # What ggml has no name for cannot be said.
    assert recipe.tensor_types([("blk.0.attn_q.weight", "I2_S"), ("a.weight", "U8")]) == ""


def test_a_recipe_survives_its_file(recipe, tmp_path):
    path = tmp_path / "recipe.json"
    made = recipe.Recipe("Q4_0", "Q8_0", (("ffn", "Q4_1"), ("embd", None)), "llama.cpp", {"a": 1})
    made.save(path)
    read = recipe.Recipe.read(path)
    assert read == made
    assert read.record == {"a": 1}
    assert recipe.arguments(path) == {
        "format": "Q4_0",
        "head": "Q8_0",
        "overrides": [("ffn", "Q4_1"), ("embd", None)],
        "fallback": "llama.cpp",
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither JSON nor any name=type"),
        ("a=q8_0\nb", "line 2: 'b' is not name=type"),
        ("a=q8_0\nb=", "line 2: 'b=' is not name=type"),
        ("a=iq3_xxs", "line 1: no format 'iq3_xxs'"),
        ("{", "not JSON"),
        ("{}", "schema tritlab.recipe/1 is wanted, not None"),
        ('{"schema": "tritlab.recipe/2"}', "not tritlab.recipe/2"),
        ('{"schema": "tritlab.recipe/1", "overrides": [["a"]]}', "list of \\[pattern, format\\]"),
        ('{"schema": "tritlab.recipe/1", "format": 4}', "`format` must be"),
        ('{"schema": "tritlab.recipe/1", "head": "Q9"}', "no format 'Q9'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(fake, recipe, tmp_path, text, why):
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(fake.errors.RecipeError, match=why) as error:
        recipe.Recipe.read(path)
    assert str(path) in str(error.value)


def test_not_text(fake, recipe, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\xff")
    with pytest.raises(fake.errors.RecipeError, match="not UTF-8"):
        recipe.Recipe.read(path)


def test_the_file_is_json_that_others_can_read(recipe, tmp_path):
    path = tmp_path / "recipe.json"
    recipe.Recipe(overrides=(("a", "Q8_0"),)).save(path)
    content = json.loads(path.read_text())
    assert content["schema"] == "tritlab.recipe/1"
    assert content["overrides"] == [["a", "Q8_0"]]
